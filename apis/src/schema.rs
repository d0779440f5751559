//! Pieces of schema that several kinds share.

use kube::core::Rule;
use schemars::{Schema, SchemaGenerator, json_schema};

/// Names longer than this do not fit a label or a metric.
pub(crate) const MAX_NAME: usize = 63;

/// The rule about names; `what` is the kind with its article.
pub(crate) fn name_rule(what: &str) -> Rule {
    Rule::new(format!("self.metadata.name.size() <= {MAX_NAME}")).message(
        format!("the name is too long: the name of {what} has at most {MAX_NAME} characters").as_str(),
    )
}

/// A 32-bit integer, whatever the Rust type says: the console's gateway knows no other.
pub(crate) fn int32(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "integer", "format": "int32"})
}

/// Conditions with every length bounded, one per type.
pub(crate) fn conditions(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": {"type": "string", "maxLength": 64},
                "status": {"type": "string", "enum": ["True", "False", "Unknown"]},
                "reason": {"type": "string", "minLength": 1, "maxLength": 64},
                "message": {"type": "string", "maxLength": 32768},
                "lastTransitionTime": {"type": "string", "format": "date-time"},
                "observedGeneration": {"type": "integer", "format": "int32"},
            },
        },
    })
}
