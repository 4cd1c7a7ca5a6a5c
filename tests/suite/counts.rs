//! Counts under load and death: none backward, none twice.
