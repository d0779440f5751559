//! Rendezvous hashing: which of several replicas takes a workspace.

use kcp_client_rs::LogicalCluster;

/// The replica that owns `cluster`: the one whose name gives the highest weight together with it. When a replica
/// comes or goes only the workspaces that it gains or had move. All replicas, of any version, must agree: the
/// function is therefore spelled out here (FNV-1a, then the splitmix64 finaliser) and never a library's default.
pub fn owner<'a>(cluster: &LogicalCluster, replicas: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    replicas.into_iter().max_by_key(|replica| (weight(cluster.as_str(), replica), *replica))
}

fn weight(cluster: &str, replica: &str) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    // 0xff occurs in no UTF-8 text: ("ab", "c") and ("a", "bc") differ.
    for byte in cluster.bytes().chain([0xff]).chain(replica.bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::collections::BTreeMap;

    use super::*;

    fn clusters() -> Vec<LogicalCluster> {
        (0..10_000).map(|n| format!("c{n}").parse().unwrap()).collect()
    }

    #[test]
    fn nobody_owns_anything_when_there_is_nobody() {
        assert_eq!(owner(&clusters()[0], []), None);
    }

    #[test]
    fn shares_are_even() {
        let mut share = BTreeMap::new();
        for cluster in clusters() {
            *share.entry(owner(&cluster, ["a", "b", "c"]).unwrap()).or_insert(0) += 1;
        }
        assert!(share.len() == 3 && share.values().all(|n| (3_000..3_700).contains(n)), "{share:?}");
    }

    #[test]
    fn only_the_lost_replicas_workspaces_move() {
        for cluster in clusters() {
            let before = owner(&cluster, ["a", "b", "c"]).unwrap();
            let after = owner(&cluster, ["c", "a"]).unwrap();
            assert!(before == after || before == "b");
        }
    }

    #[test]
    fn the_function_never_changes() {
        assert_eq!(weight("2x7k1pq9vd3mzs0a", "provider-0"), WEIGHT_OF_RECORD);
    }

    /// Replicas of different versions run side by side during an upgrade and must agree.
    const WEIGHT_OF_RECORD: u64 = 6_083_660_965_215_882_862;
}
