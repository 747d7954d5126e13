//! `longshore top` on a terminal: it shows the fleet, says when the node has gone, and leaves the terminal as it was, however it ends.

use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::process::Child;
use std::time::Duration;

use longshore_tests::cli::exit_code;
use longshore_tests::{Fleet, Peer, eventually, eventually_value, machine};
use rustix::fs::{Mode, OFlags};
use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, Winsize, tcgetattr, tcsetwinsize};

/// For anything that is waited for here.
const PATIENCE: Duration = Duration::from_secs(20);

const OTHER_SCREEN: &str = "\u{1b}[?1049h";
const OWN_SCREEN: &str = "\u{1b}[?1049l";
/// With which every colour of ours begins.
const COLOUR: &str = "\u{1b}[38;";
const CURSOR: &str = "\u{1b}[?25h";

/// A terminal, and `longshore top` on it.
struct Top {
    child: Child,
    /// The side of whoever sits at the terminal.
    person: File,
    /// The side of programs, held open so that its modes can be looked at.
    program: File,
    /// All that was written to the screen.
    seen: String,
}

impl Top {
    fn start(peer: &Peer) -> Self {
        Self::start_with(peer, "")
    }

    fn start_with(peer: &Peer, no_color: &str) -> Self {
        let person =
            openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&person).and_then(|()| unlockpt(&person)).expect("the terminal can be used");
        let name = ptsname(&person, Vec::new()).expect("the terminal has a name");
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let program = File::from(rustix::fs::open(&name, flags, Mode::empty()).expect("the terminal opens"));
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&program, size).expect("the terminal has a size");
        rustix::io::ioctl_fionbio(&person, true).expect("reads need not wait");
        let side = || program.try_clone().expect("one more handle");
        let mut command = peer.cli(["top"]).command();
        command.env("TERM", "xterm-256color").env("NO_COLOR", no_color);
        let child = command.stdin(side()).stdout(side()).stderr(side()).spawn().expect("the binary starts");
        Self { child, person: person.into(), program, seen: String::new() }
    }

    /// Waits until something was written to the screen since `from`, a length of `seen`. Blanks that are there already are not written again,
    /// so it should be one word.
    #[track_caller]
    fn shows(&mut self, word: &str, from: usize) {
        eventually_value(&format!("{word:?} on the screen"), PATIENCE, || {
            self.read();
            if self.seen[from..].contains(word) { Ok(()) } else { Err(self.seen[from..].to_owned()) }
        });
    }

    fn read(&mut self) {
        let mut bytes = [0; 4096];
        loop {
            match self.person.read(&mut bytes) {
                Ok(0) => return,
                Ok(read) => self.seen.push_str(&String::from_utf8_lossy(&bytes[..read])),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("the terminal cannot be read: {error}"),
            }
        }
    }

    fn press(&mut self, keys: &str) {
        self.person.write_all(keys.as_bytes()).expect("the terminal takes keys");
    }

    fn is_raw(&self) -> bool {
        let modes = tcgetattr(&self.program).expect("the terminal has modes").local_modes;
        !modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    /// Waits for the end; the terminal must be as it was.
    #[track_caller]
    fn ends(mut self, code: i32) {
        let status = eventually_value("the end of top", PATIENCE, || {
            self.read();
            self.child.try_wait().expect("it can be waited for").ok_or_else(|| "it runs".to_owned())
        });
        self.read();
        assert_eq!(exit_code(status), code, "{}", self.seen);
        assert!(!self.is_raw(), "the terminal is still raw");
        let (_, rest) = self.seen.rsplit_once(OWN_SCREEN).expect("it left its own screen");
        assert!(rest.contains(CURSOR) && !rest.contains(OTHER_SCREEN), "{rest:?}");
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_shows_the_fleet_and_leaves_the_terminal_as_it_was() {
    let _machine = machine::share();
    let mut fleet = Fleet::of(1, "top");

    let mut top = Top::start(&fleet.peers[0]);
    assert!(!top.seen.contains(OTHER_SCREEN));
    top.shows(OTHER_SCREEN, 0);
    top.shows("p1*", 0);
    top.shows("healthy", 0);
    eventually("a raw terminal", PATIENCE, || top.is_raw());
    let from = top.seen.len();
    top.press("\r");
    top.shows("availability:", from);
    top.press("q");
    top.ends(0);

    let mut top = Top::start(&fleet.peers[0]);
    top.shows("p1*", 0);
    top.shows(COLOUR, 0);
    top.press("\u{3}");
    top.ends(0);

    let mut top = Top::start_with(&fleet.peers[0], "1");
    top.shows("healthy", 0);
    assert!(!top.seen.contains(COLOUR), "{}", top.seen);
    top.press("q");
    top.ends(0);

    let mut top = Top::start(&fleet.peers[0]);
    top.shows("p1*", 0);
    let pid = Pid::from_child(&top.child);
    kill_process(pid, Signal::TERM).expect("it can be told to end");
    top.ends(130);

    let mut top = Top::start(&fleet.peers[0]);
    top.shows("p1*", 0);
    let from = top.seen.len();
    fleet.peers[0].kill9();
    top.shows("picture", from);
    top.press("q");
    top.ends(0);

    // Nobody answers: that is said on the terminal as it is.
    let mut top = Top::start(&fleet.peers[0]);
    top.shows("error:", 0);
    eventually("the end", PATIENCE, || top.child.try_wait().expect("it can be waited for").is_some());
    top.read();
    assert!(!top.seen.contains(OTHER_SCREEN) && top.seen.contains("hint:"), "{}", top.seen);
}
