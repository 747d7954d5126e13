//! The terminal while `longshore top` has it: raw, on its other screen, without a cursor; and as it was before, whatever happens.

use std::io::{self, Write};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use crossterm::cursor::{Hide, Show};
use crossterm::execute;
use crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::backend::CrosstermBackend;
use ratatui::{Frame, Terminal};

/// Whether the terminal is ours at present.
static OPEN: AtomicBool = AtomicBool::new(false);

type Out<'a> = &'a mut Box<dyn Write + Send>;

/// The terminal is given back when it is dropped, and by a panic before its message.
pub(super) struct Screen<'a> {
    terminal: Terminal<CrosstermBackend<Out<'a>>>,
}

impl<'a> Screen<'a> {
    /// # Errors
    /// If the process has no terminal, or it cannot be written to.
    pub(super) fn open(out: Out<'a>) -> io::Result<Self> {
        restore_on_panic();
        OPEN.store(true, Ordering::SeqCst);
        let opened = enable_raw_mode().and_then(|()| execute!(out, EnterAlternateScreen, Hide));
        let terminal = opened.and_then(|()| Terminal::new(CrosstermBackend::new(out)));
        terminal.map(|terminal| Self { terminal }).inspect_err(|_| restore())
    }

    /// Draws a frame in the size that the terminal has now.
    pub(super) fn draw(&mut self, picture: impl FnOnce(&mut Frame<'_>)) -> io::Result<()> {
        self.terminal.draw(picture).map(drop)
    }

    /// Lines of the screen.
    pub(super) fn height(&self) -> u16 {
        self.terminal.size().map_or(0, |size| size.height)
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        restore();
    }
}

/// Gives the terminal back, once. Errors have nobody to be told: the terminal has gone.
fn restore() {
    if OPEN.swap(false, Ordering::SeqCst) {
        let _ = disable_raw_mode();
        let _ = execute!(io::stdout(), LeaveAlternateScreen, Show);
    }
}

/// A message on the other screen would vanish with it, and one on a raw terminal would be torn.
fn restore_on_panic() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            restore();
            before(panic);
        }));
    });
}
