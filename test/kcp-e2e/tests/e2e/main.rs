//! Scenarios on a real kcp with the built binaries: one story per file, each in workspaces of its own.
//!
//! `make e2e` runs them all; `cargo build --workspace --all-targets && cargo test --workspace --test e2e -- rotate` those about
//! rotation. They share one kcp, the key stores and, unless a story says `with_own_provider`, one provider with two edges.

mod account_in_use_cannot_be_deleted;
mod account_tells_what_is_wrong_with_its_root_key;
mod an_older_world_never_wins;
mod any_workspace_becomes_a_tenant;
mod cut_off_edge_is_safe_by_its_lease;
mod disabled_key_leaves_the_edge;
mod every_store_holds_a_root_key;
mod keys_stay_in_their_regions;
mod killed_at_every_step_of_a_key_s_life;
mod killed_at_every_step_of_a_rekey;
mod killed_provider_goes_on_where_it_was;
mod new_root_key_under_live_keys;
mod new_workspace_at_an_old_path_inherits_nothing;
mod no_secret_is_ever_shown;
mod objects_of_an_older_schema;
mod other_tenants_are_out_of_reach;
mod outage_of_ledger_or_kcp_takes_no_key;
mod readiness_tells_when_kcp_is_gone;
mod rebind_while_the_provider_was_away;
mod root_loss_and_return;
mod rotate_now_makes_one_version;
mod several_bindings_and_refused_claims;
mod suspended_and_compromised_keys_leave_the_edge;
mod traces_tell_what_happens_and_no_secret;
mod two_replicas_over_one_ledger;
mod unbind_and_rebind_lose_nothing;
mod undeleted_key_has_its_versions;

/// A real PostgreSQL server: the ledger's own tests start it in the same way.
#[allow(clippy::unwrap_used)]
#[path = "../../../../provider/crates/keychain/tests/common/postgres.rs"]
mod postgres;
