//! The test page in a real browser.
