//! Which addresses a name chosen by a tenant may lead to.

use std::{
    collections::HashSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

/// Resolves names to public addresses only. Names that the operator listed may be private; nothing may be this machine, its link or a
/// metadata service. Every connection asks again, so that a name which changes its mind (DNS rebinding) gains nothing.
#[derive(Debug, Clone)]
pub(crate) struct PublicOnly {
    private_hosts: Arc<HashSet<String>>,
}

impl PublicOnly {
    pub(crate) fn new(private_hosts: impl IntoIterator<Item = String>) -> Self {
        Self {
            private_hosts: Arc::new(
                private_hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect(),
            ),
        }
    }
}

/// A name that leads only to addresses which are not allowed.
#[derive(Debug, thiserror::Error)]
#[error("the name resolves only to addresses that are not allowed")]
pub(crate) struct Forbidden;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        let private = self.private_hosts.contains(&name.as_str().to_ascii_lowercase());
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let allowed: Vec<SocketAddr> =
                found.filter(|address| is_allowed(address.ip(), private)).collect();
            if allowed.is_empty() {
                return Err(Forbidden.into());
            }
            Ok(Box::new(allowed.into_iter()) as Addrs)
        })
    }
}

/// Whether a store may be at this address.
pub(crate) fn is_allowed(address: IpAddr, private: bool) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => v4(address, private),
        IpAddr::V6(address) => v6(address, private),
    }
}

fn v4(address: Ipv4Addr, private: bool) -> bool {
    let [a, b, c, _] = address.octets();
    let never = address.is_loopback()
        || address.is_link_local()
        || address.is_multicast()
        || address.is_broadcast()
        || address.is_documentation()
        || a == 0
        || a >= 240
        || (a, b, c) == (192, 0, 0)
        || (a == 198 && (b & 0xfe) == 18);
    // 100.64/10 holds Alibaba's metadata service and carriers' own hosts.
    let inside = address.is_private() || (a == 100 && (b & 0xc0) == 64);
    // Azure's own wire server, for every virtual machine.
    let wire_server = address == Ipv4Addr::new(168, 63, 129, 16);
    !never && !wire_server && (private || !inside)
}

fn v6(address: Ipv6Addr, private: bool) -> bool {
    let [first, second, ..] = address.segments();
    let unique_local = (first & 0xfe00) == 0xfc00;
    // fd00:ec2::254 is AWS's metadata service.
    let metadata = first == 0xfd00 && second == 0x0ec2;
    // Global unicast only, without what embeds an IPv4 address (6to4, Teredo, NAT64) or is documentation.
    let global = (first & 0xe000) == 0x2000
        && first != 0x2002
        && !(first == 0x2001 && (second == 0 || second == 0x0db8));
    global || (private && unique_local && !metadata)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_public_addresses_pass() {
        for (address, public, private) in [
            ("20.50.1.2", true, true),
            ("2603:1020:201:10::1", true, true),
            ("10.1.2.3", false, true),
            ("172.16.0.1", false, true),
            ("192.168.1.1", false, true),
            ("100.100.100.200", false, true),
            ("fd12::1", false, true),
            ("::ffff:10.0.0.1", false, true),
            ("127.0.0.1", false, false),
            ("127.8.8.8", false, false),
            ("0.0.0.0", false, false),
            ("169.254.169.254", false, false),
            ("168.63.129.16", false, false),
            ("224.0.0.1", false, false),
            ("255.255.255.255", false, false),
            ("192.0.0.192", false, false),
            ("198.18.0.1", false, false),
            ("::1", false, false),
            ("::", false, false),
            ("::ffff:127.0.0.1", false, false),
            ("::ffff:169.254.169.254", false, false),
            ("64:ff9b::a9fe:a9fe", false, false),
            ("2002:7f00:1::", false, false),
            ("fe80::1", false, false),
            ("fd00:ec2::254", false, false),
            ("ff02::1", false, false),
        ] {
            let ip: IpAddr = address.parse().unwrap();
            assert_eq!((is_allowed(ip, false), is_allowed(ip, true)), (public, private), "{address}");
        }
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_refused() {
        let resolver = PublicOnly::new(["localhost".to_owned()]);
        assert!(resolver.resolve("localhost".parse().unwrap()).await.is_err());
    }
}
