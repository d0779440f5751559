//! The kinds that users of OpenKCM write, and the APIExport generated from them.
