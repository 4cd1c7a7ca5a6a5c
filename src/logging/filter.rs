//! Which events are logged.

use std::str::FromStr;

use tracing::Metadata;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;

/// A level, and levels for some parts: `info,baton_worker=debug`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Filter(Targets);

const LEVELS: [(&str, LevelFilter); 5] = [
    ("error", LevelFilter::ERROR),
    ("warn", LevelFilter::WARN),
    ("info", LevelFilter::INFO),
    ("debug", LevelFilter::DEBUG),
    ("trace", LevelFilter::TRACE),
];

impl Filter {
    pub(super) fn enables(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && self.0.would_enable(metadata.target(), metadata.level())
    }

    /// The most verbose level that any part has.
    pub(super) fn max_level(&self) -> LevelFilter {
        let parts = self.0.iter().map(|(_, level)| level);
        parts.chain(self.0.default_level()).max().unwrap_or(LevelFilter::OFF)
    }
}

impl Default for Filter {
    fn default() -> Filter {
        Filter(Targets::new().with_default(LevelFilter::INFO))
    }
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Filter, String> {
        let level = |name: &str| LEVELS.iter().find(|(known, _)| *known == name).map(|(_, level)| *level);
        let is_target =
            |target: &str| !target.is_empty() && !target.contains(|c: char| c.is_whitespace() || "=[]".contains(c));
        // Parts that are not named keep the default level when the text names no other.
        let mut targets = Filter::default().0;
        for directive in text.split(',') {
            let parsed = match directive.split_once('=') {
                Some((target, name)) if is_target(target) => level(name).map(|level| (Some(target), level)),
                Some(_) => None,
                None => level(directive).map(|level| (None, level)),
            };
            targets = match parsed {
                Some((Some(target), level)) => targets.with_target(target, level),
                Some((None, level)) => targets.with_default(level),
                None => {
                    return Err("error, warn, info, debug or trace, also for parts: info,baton_worker=debug".to_owned());
                }
            };
        }
        Ok(Filter(targets))
    }
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_level_and_levels_for_parts() {
        let filter: Filter = "warn,baton_worker=debug".parse().unwrap();
        assert!(filter.0.would_enable("baton_worker::store", &Level::DEBUG));
        assert!(!filter.0.would_enable("baton_supervisor", &Level::INFO));
        assert_eq!(filter.max_level(), LevelFilter::DEBUG);
        let filter: Filter = "baton_worker=trace".parse().unwrap();
        assert!(filter.0.would_enable("baton", &Level::INFO) && !filter.0.would_enable("baton", &Level::DEBUG));
        assert_eq!("info".parse(), Ok(Filter::default()));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "INFO", "verbose", "info,", "=debug", "a=", "a=b=debug", "[x]=debug", "info, a=debug"] {
            assert!(text.parse::<Filter>().is_err(), "{text}");
        }
    }
}
