//! Wrong values are refused, each with its reason.
