//! What a terminal can show: colours or none (NO_COLOR), lines and bars of Unicode or of ASCII.

use baton_ipc::scoreboard::State;
use ratatui::style::{Color, Modifier, Style};
use ratatui::symbols::{bar, border};

use crate::config::Environment;
use crate::monitor::lines::Level;

const ASCII_BARS: bar::Set<'_> = bar::Set {
    full: "#",
    seven_eighths: "#",
    three_quarters: "=",
    five_eighths: "=",
    half: "-",
    three_eighths: "-",
    one_quarter: ".",
    one_eighth: ".",
    empty: " ",
};

const ASCII_BORDERS: border::Set<'_> = border::Set {
    top_left: "+",
    top_right: "+",
    bottom_left: "+",
    bottom_right: "+",
    vertical_left: "|",
    vertical_right: "|",
    horizontal_top: "-",
    horizontal_bottom: "-",
};

/// How to show things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::monitor) struct Palette {
    pub(in crate::monitor) colors: bool,
    pub(in crate::monitor) unicode: bool,
}

impl Palette {
    /// As the environment has it: <https://no-color.org>, and the character set of the locale (locale(7)).
    pub(in crate::monitor) fn of(environment: &Environment) -> Palette {
        let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| environment.get(name));
        let unicode = locale.is_some_and(|locale| {
            let locale = locale.to_ascii_lowercase();
            locale.contains("utf-8") || locale.contains("utf8")
        });
        Palette { colors: environment.get("NO_COLOR").is_none(), unicode }
    }

    fn paint(self, color: Color) -> Style {
        if self.colors { Style::new().fg(color) } else { Style::new() }
    }

    pub(super) fn strong(self) -> Style {
        Style::new().add_modifier(Modifier::BOLD)
    }

    pub(super) fn dim(self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }

    pub(super) fn focused(self) -> Style {
        Style::new().add_modifier(Modifier::REVERSED | Modifier::BOLD)
    }

    pub(super) fn good(self) -> Style {
        self.paint(Color::Green)
    }

    pub(super) fn warning(self) -> Style {
        self.paint(Color::Yellow).add_modifier(Modifier::BOLD)
    }

    pub(super) fn error(self) -> Style {
        self.paint(Color::Red).add_modifier(Modifier::BOLD)
    }

    /// Of a generation.
    pub(super) fn color(self, name: &str) -> Style {
        let color = if name == "green" { Color::Green } else { Color::Blue };
        self.paint(color).add_modifier(Modifier::BOLD)
    }

    pub(super) fn chart(self) -> Style {
        self.paint(Color::Cyan)
    }

    pub(super) fn level(self, level: Level) -> Style {
        match level {
            Level::Error => self.error(),
            Level::Warn => self.warning(),
            Level::Info => self.good(),
            Level::Debug | Level::Trace => self.dim(),
        }
    }

    pub(super) fn state(self, state: State) -> Style {
        match state {
            State::Serving => self.good(),
            State::Starting | State::Draining => self.warning(),
            State::Backoff | State::Killed | State::Fatal => self.error(),
            State::Stopped => self.dim(),
        }
    }

    pub(super) fn borders(self) -> border::Set<'static> {
        if self.unicode { border::PLAIN } else { ASCII_BORDERS }
    }

    pub(super) fn bars(self) -> bar::Set<'static> {
        if self.unicode { bar::NINE_LEVELS } else { ASCII_BARS }
    }

    /// A part of so many cells that are full.
    pub(super) fn gauge(self, full: usize, cells: usize) -> String {
        let (on, off) = if self.unicode { ("█", "░") } else { ("#", ".") };
        on.repeat(full.min(cells)) + &off.repeat(cells.saturating_sub(full))
    }

    /// From one to the other.
    pub(super) fn arrow(self) -> &'static str {
        if self.unicode { "→" } else { "->" }
    }

    /// A text with what only Unicode has put into words.
    pub(super) fn plain(self, text: &str) -> String {
        if self.unicode {
            return text.to_owned();
        }
        text.replace("← →", "arrows").replace("↑ ↓", "arrows").replace('→', "->")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_says_what_the_terminal_can_show() {
        let of = |variables: &[(&str, &str)]| {
            let pairs = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let Palette { colors, unicode } = Palette::of(&pairs.collect());
            (colors, unicode)
        };
        assert_eq!(of(&[("LANG", "C.UTF-8")]), (true, true));
        assert_eq!(of(&[("LANG", "en_US.utf8"), ("LC_ALL", "C"), ("NO_COLOR", "1")]), (false, false));
        assert_eq!(of(&[("NO_COLOR", "")]), (true, false));
    }

    #[test]
    fn without_colours_nothing_is_coloured() {
        let palette = Palette { colors: false, unicode: false };
        for style in [palette.good(), palette.warning(), palette.error(), palette.color("green"), palette.chart()] {
            assert_eq!((style.fg, style.bg), (None, None));
        }
        assert_eq!(palette.gauge(2, 4), "##..");
        assert!(super::super::HELP.iter().all(|(keys, _)| palette.plain(keys).is_ascii()));
    }
}
