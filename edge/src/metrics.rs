//! Figures about this edge. Labels are operations and codes, never names.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, text::encode},
    metrics::{
        counter::ConstCounter, counter::Counter, family::Family, gauge::ConstGauge, histogram::Histogram,
    },
    registry::Registry,
};

use crate::{error::OpError, store::KeyStore};

/// Upper bounds of the latency buckets, in seconds: from in-process speed to "something is wrong".
const BUCKETS: [f64; 14] =
    [1e-6, 2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 5e-3, 2e-2, 1e-1, 1.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    operation: &'static str,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: &'static str,
}

/// The metrics of one edge.
pub struct Metrics {
    registry: Registry,
    operations: Family<Labels, Counter>,
    seconds: Family<OperationLabel, Histogram, fn() -> Histogram>,
}

impl Metrics {
    /// Metrics of an edge with this store.
    pub fn new(store: Arc<KeyStore>) -> Self {
        let mut registry = Registry::with_prefix("openkcm_edge");
        let operations = Family::default();
        let seconds: Family<OperationLabel, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        registry.register(
            "operations",
            "Operations by result; each item of a batch counts",
            operations.clone(),
        );
        registry.register(
            "request_seconds",
            "Time to serve a request message, without transport",
            seconds.clone(),
        );
        registry.register_collector(Box::new(StoreCollector(store)));
        Self { registry, operations, seconds }
    }

    /// Counts `count` operations that ended alike.
    pub fn count(&self, operation: &'static str, error: Option<&OpError>, count: u64) {
        let code = error.map_or("ok", |error| error.code.as_str());
        self.operations.get_or_create(&Labels { operation, code }).inc_by(count);
    }

    /// Notes how long a request message took.
    pub fn observe(&self, operation: &'static str, time: Duration) {
        self.seconds.get_or_create(&OperationLabel { operation }).observe(time.as_secs_f64());
    }

    /// All figures in the OpenMetrics text format.
    pub fn encode(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

#[derive(Clone)]
struct StoreCollector(Arc<KeyStore>);

impl std::fmt::Debug for StoreCollector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreCollector")
    }
}

impl Collector for StoreCollector {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), std::fmt::Error> {
        let (stats, lease) = (self.0.stats(), self.0.lease());
        let gauges = [
            ("keys", "Keys with material in the cache", stats.live as f64),
            ("tombstones", "Evicted keys whose reason is kept", stats.tombstones as f64),
            (
                "lease_remaining_seconds",
                "Time until the lease ends; 0 is no lease",
                lease.remaining.as_secs_f64(),
            ),
            ("lease_age_seconds", "Time since the lease was renewed", lease.age.as_secs_f64()),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)?;
        }
        let evictions = ConstCounter::new(stats.evictions);
        evictions.encode(encoder.encode_descriptor(
            "evictions",
            "Keys taken back since the start",
            None,
            evictions.metric_type(),
        )?)
    }
}
