//! The terminal: taken, drawn on, and given back as it was, however this ends.

use std::io::{self, Write, stdout};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{SigSet, Signal, raise};
use nix::unistd::{Pid, getpgrp};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyEvent};
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{Clear, ClearType, EnterAlternateScreen, disable_raw_mode, enable_raw_mode};

use super::lines::Book;
use super::model::Model;
use super::ui::{Action, Ui, action};
use super::view::{self, Palette, Scene};
use super::watcher::{News, Wish};

/// The clock in the corner.
const SECOND: Duration = Duration::from_secs(1);

/// How long a signal waits for the screen to be given back: a terminal whose other end stands still takes nothing.
const GRACE: Duration = Duration::from_secs(2);

/// What a process that a signal has ended returns in a shell, less the signal's number.
pub(super) const SIGNALLED: i32 = 128;

/// Signals that end this: the terminal is given back first.
const ENDING: [Signal; 4] = [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT];

/// All that this waits for.
#[derive(Debug)]
pub(super) enum Happening {
    News(News),
    Key(KeyEvent),
    /// The terminal has another size, or wants to be drawn anew.
    Resized,
    Signalled(Signal),
    /// The terminal is gone.
    HungUp,
    /// A thread has panicked, and said why.
    Broken,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Quit,
    Signalled(Signal),
}

/// Sends the signals that end this process, instead of letting them. To be called before any thread is started, since
/// those that are there already would take them.
pub(super) fn catch_signals(sender: SyncSender<Happening>) -> io::Result<()> {
    let signals = SigSet::from_iter(ENDING);
    signals.thread_block()?;
    spawn("signals", sender, move |sender| {
        let Ok(signal) = signals.wait() else { return };
        // If there is no room for it, the grace will not be enough either.
        let _ = sender.try_send(Happening::Signalled(signal));
        thread::sleep(GRACE);
        // Still here: the terminal takes nothing, so it cannot be told either.
        let _ = disable_raw_mode();
        std::process::exit(SIGNALLED + signal as i32);
    })
}

/// A thread that tells when it has panicked: the terminal was given back then, and must not be drawn on any more.
pub(super) fn spawn(
    name: &str,
    sender: SyncSender<Happening>,
    work: impl FnOnce(&SyncSender<Happening>) + Send + 'static,
) -> io::Result<()> {
    struct Tell(SyncSender<Happening>);
    impl Drop for Tell {
        fn drop(&mut self) {
            if thread::panicking() {
                let _ = self.0.send(Happening::Broken);
            }
        }
    }
    let tell = Tell(sender);
    thread::Builder::new().name(name.to_owned()).spawn(move || {
        // All of it, so that it is dropped here.
        let tell = tell;
        work(&tell.0);
    })?;
    Ok(())
}

/// Sends what is typed.
fn catch_keys(sender: SyncSender<Happening>) -> io::Result<()> {
    spawn("keys", sender, |sender| {
        loop {
            let happening = match event::read() {
                Ok(Event::Key(key)) => Happening::Key(key),
                Ok(Event::Resize(..)) => Happening::Resized,
                Ok(Event::FocusGained | Event::FocusLost | Event::Mouse(_) | Event::Paste(_)) => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_) => Happening::HungUp,
            };
            let over = matches!(happening, Happening::HungUp);
            if sender.send(happening).is_err() || over {
                return;
            }
        }
    })
}

/// The terminal while it is ours. A panic of any thread gives it back too, before it says why.
struct Screen(DefaultTerminal);

impl Screen {
    fn take() -> io::Result<Screen> {
        // Half taken, it is given back as well.
        ratatui::try_init().map(Screen).inspect_err(|_| give_back())
    }

    /// As Ctrl-Z does where a program has not taken the terminal. Not if it was started by a script: that would wait, and
    /// nobody would get the terminal.
    fn suspend(&mut self) -> io::Result<()> {
        if getpgrp() != Pid::this() {
            return Ok(());
        }
        self.0.show_cursor()?;
        ratatui::try_restore()?;
        raise(Signal::SIGTSTP)?;
        enable_raw_mode()?;
        execute!(stdout(), EnterAlternateScreen)?;
        self.clear()
    }

    /// The next drawing begins on an empty screen. Not by [`ratatui::Terminal::clear`], which asks the terminal where the cursor
    /// is: the thread that reads what is typed would take the answer.
    fn clear(&mut self) -> io::Result<()> {
        execute!(stdout(), Clear(ClearType::All))?;
        // Nothing is known to be on it, so that all is drawn.
        self.0.swap_buffers();
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // Who hung up cannot be told.
        let _ = self.0.show_cursor();
        give_back();
    }
}

fn give_back() {
    let _ = ratatui::try_restore();
    let _ = stdout().flush();
}

/// What is shown.
pub(super) struct Show {
    pub(super) ui: Ui,
    pub(super) palette: Palette,
    pub(super) began: Instant,
    model: Model,
    book: Book,
    missed: u64,
}

impl Show {
    pub(super) fn new(ui: Ui, palette: Palette, began: Instant) -> Show {
        Show { ui, palette, began, model: Model::default(), book: Book::default(), missed: 0 }
    }

    /// Until somebody has had enough. Draws when something has happened, and each second for the clock.
    pub(super) fn run(
        mut self,
        happenings: &Receiver<Happening>,
        sender: SyncSender<Happening>,
        wishes: &Sender<Wish>,
    ) -> io::Result<End> {
        let mut screen = Screen::take()?;
        catch_keys(sender)?;
        loop {
            screen.0.draw(|frame| view::draw(frame, &self.scene()))?;
            let first = match happenings.recv_timeout(SECOND) {
                Ok(happening) => Some(happening),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return Ok(End::Quit),
            };
            // What came together is drawn together.
            for happening in first.into_iter().chain(happenings.try_iter()) {
                if let Some(end) = self.take_in(happening, &mut screen, wishes)? {
                    return Ok(end);
                }
            }
        }
    }

    fn take_in(&mut self, happening: Happening, screen: &mut Screen, wishes: &Sender<Wish>) -> io::Result<Option<End>> {
        match happening {
            Happening::News(News::Sample(sample)) => self.model.observe(*sample),
            Happening::News(News::Log(lines, missed)) => {
                let new = self.book.add(lines);
                self.ui.log_grew(new.len(), self.book.len());
                self.missed += missed;
            }
            Happening::Key(key) => match action(key) {
                Some(Action::Quit) => return Ok(Some(End::Quit)),
                Some(Action::Suspend) => screen.suspend()?,
                Some(Action::Redraw) => screen.clear()?,
                Some(action) => self.act(action, wishes),
                None => {}
            },
            Happening::Resized => {}
            Happening::Signalled(signal) => return Ok(Some(End::Signalled(signal))),
            Happening::HungUp => return Ok(Some(End::Signalled(Signal::SIGHUP))),
            Happening::Broken => return Err(io::Error::other("a part of it has panicked")),
        }
        Ok(None)
    }

    fn act(&mut self, action: Action, wishes: &Sender<Wish>) {
        let before = self.ui.clone();
        let rows = view::rows(&self.scene());
        self.ui.act(action, self.book.len(), rows);
        // A watcher that is gone has taken the process with it.
        if self.ui.interval != before.interval {
            let _ = wishes.send(Wish::Every(self.ui.interval));
        }
        if self.ui.paused != before.paused {
            let _ = wishes.send(Wish::Rest(self.ui.paused));
        }
    }

    fn scene(&self) -> Scene<'_> {
        Scene {
            model: &self.model,
            book: &self.book,
            missed: self.missed,
            ui: &self.ui,
            palette: self.palette,
            now: SystemTime::now(),
            elapsed: self.began.elapsed(),
        }
    }
}
