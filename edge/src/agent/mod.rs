//! The edge's end of the stream to the orchestrator.
