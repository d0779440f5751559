//! Decisions that lead to nothing, which is nearly all of them: `cargo bench --workspace --bench plan`.
//! The target is 50,000 a second on one core.
#![allow(clippy::unwrap_used)]

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jiff::{SignedDuration, Timestamp};
use openkcm_apis::{LEDGER_FINALIZER, ServiceEncryptionKey, VersionState};
use openkcm_plan::{
    Settings, TenantView,
    account::AccountView,
    key::{Edges, Effect, HandedOut, Input, Record, Version, plan},
};
use serde_json::json;

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn input<'a>(object: &'a ServiceEncryptionKey, record: &Record, handed_out: Option<HandedOut>) -> Input<'a> {
    Input {
        now: now(),
        settings: Settings { started: now(), root_loss_grace: SignedDuration::from_secs(120) },
        tenant: TenantView::Active,
        tenant_name: "tenant-root-demo",
        object: Some(object),
        account: AccountView::Ready { version: 1, rotate_before: None, deleting: false },
        regions: &[],
        loaded: &[1],
        unopenable: &[],
        record: Some(record.clone()),
        edges: Edges { handed_out, total: 2, current: 2, ..Edges::default() },
        declared: None,
        refused: None,
    }
}

fn no_op(criterion: &mut Criterion) {
    let now = now();
    let mut group = criterion.benchmark_group("no-op decision");
    group.throughput(Throughput::Elements(1));
    for versions in [1, 10, 100] {
        let spec = json!({ "accountRef": { "name": "root" }, "rotationSchedule": "30 Days" });
        let mut object = ServiceEncryptionKey::new("orders", serde_json::from_value(spec).unwrap());
        object.metadata.finalizers = Some(vec![LEDGER_FINALIZER.to_owned()]);
        object.metadata.generation = Some(1);
        let record = Record {
            id: [7; 16],
            account: "root".to_owned(),
            spec: serde_json::to_value(&object.spec).unwrap(),
            current: versions,
            last_rotation: now,
            served_request: None,
            delete_after: None,
            recovered_at: None,
            behind: false,
            seen: 0,
            versions: (1..=versions)
                .rev()
                .map(|version| Version {
                    version,
                    state: if version == versions { VersionState::Active } else { VersionState::Deactivated },
                    account_key_version: 1,
                    created: now,
                    destroyed: None,
                })
                .collect(),
        };
        let served = match plan(&input(&object, &record, None)).effect {
            Some(Effect::Serve { fingerprint, .. }) => HandedOut::Serve(fingerprint),
            effect => unreachable!("{effect:?}"),
        };
        let status = plan(&input(&object, &record, Some(served))).status;
        object.status = status;
        let input = input(&object, &record, Some(served));
        assert_eq!(plan(&input).effect, None);
        group.bench_function(format!("{versions} versions"), |bencher| {
            bencher.iter(|| black_box(plan(black_box(&input))));
        });
    }
    group.finish();
}

criterion_group!(benches, no_op);
criterion_main!(benches);
