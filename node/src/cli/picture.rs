//! The ring as a picture: one character for each partition, by the node that leads it.
//!
//! Must never: be wider than a terminal of 80 columns, or say by colour alone what letters do not say.

use crate::api::types::{PlacementView, RingView};

/// Partitions in one line: with the number before them a line has 68 columns.
const LINE: usize = 64;
/// Columns of the legend.
const WIDTH: usize = 79;
/// A group without a quorum.
const STUCK: char = '!';
/// Nobody is known to lead it.
const UNKNOWN: char = '.';
/// Nodes beyond the letters and digits.
const OTHER: char = '*';
/// Colours of the 256-colour palette, told apart by most eyes and readable under black letters.
const PALETTE: [u8; 12] = [114, 180, 110, 216, 151, 222, 146, 187, 109, 174, 150, 223];

/// The letter of the node at this place of the list of nodes.
pub(super) fn letter(index: usize) -> char {
    let letters = ('A'..='Z').chain('0'..='9');
    letters.into_iter().nth(index).unwrap_or(OTHER)
}

/// Four lines of 64 partitions, and what the characters mean.
pub(super) fn render(ring: &RingView, colour: bool) -> String {
    let cells = cells(ring);
    let mut text = String::new();
    for (number, line) in cells.chunks(LINE).enumerate() {
        text.push_str(&format!("{:>3} ", number * LINE));
        text.push_str(&paint(line, colour));
        text.push('\n');
    }
    text.push('\n');
    text.push_str(&legend(ring, &cells));
    text
}

/// A partition's character, and its node's place in the list.
type Cell = (char, Option<usize>);

fn cells(ring: &RingView) -> Vec<Cell> {
    let mut cells = vec![(UNKNOWN, None); ring.partition_count as usize];
    for group in &ring.groups {
        let cell = cell(ring, group);
        for partition in group.partitions.first..=group.partitions.last {
            if let Some(place) = cells.get_mut(partition as usize) {
                *place = cell;
            }
        }
    }
    cells
}

fn cell(ring: &RingView, group: &PlacementView) -> Cell {
    if !group.stuck_without.is_empty() {
        return (STUCK, None);
    }
    let place = group.leader.as_ref().and_then(|leader| ring.nodes.iter().position(|n| n.name == *leader));
    let Some(index) = place else { return (UNKNOWN, None) };
    let letter = letter(index);
    (if group.change.is_some() { letter.to_ascii_lowercase() } else { letter }, Some(index))
}

fn paint(line: &[Cell], colour: bool) -> String {
    let plain = |run: &[Cell]| run.iter().map(|(letter, _)| *letter).collect::<String>();
    if !colour {
        return plain(line);
    }
    let runs = line.chunk_by(|one, other| one.1 == other.1);
    runs.map(|run| match run[0] {
        (_, Some(index)) => {
            format!("\x1b[30;48;5;{}m{}\x1b[0m", PALETTE[index % PALETTE.len()], plain(run))
        }
        (STUCK, None) => format!("\x1b[97;41m{}\x1b[0m", plain(run)),
        (_, None) => plain(run),
    })
    .collect()
}

/// Nodes that lead something, and those characters that are there.
fn legend(ring: &RingView, cells: &[Cell]) -> String {
    let leads = |index: usize| cells.iter().any(|(_, leader)| *leader == Some(index));
    let named = ring.nodes.iter().enumerate().filter(|(index, _)| leads(*index));
    let mut words: Vec<String> = named
        .filter(|(index, _)| letter(*index) != OTHER)
        .map(|(index, node)| format!("{} {}", letter(index), node.name))
        .collect();
    let is_there = |wanted: &dyn Fn(char) -> bool| cells.iter().any(|(letter, _)| wanted(*letter));
    if is_there(&|letter| letter == OTHER) {
        words.push(format!("{OTHER} other nodes"));
    }
    if is_there(&|letter| letter.is_ascii_lowercase()) {
        words.push("lower case: being moved".to_owned());
    }
    if is_there(&|letter| letter == STUCK) {
        words.push(format!("{STUCK} no quorum"));
    }
    if is_there(&|letter| letter == UNKNOWN) {
        words.push(format!("{UNKNOWN} no leader known"));
    }
    let mut lines = vec!["leaders:".to_owned()];
    for word in words {
        let line = lines.last_mut().expect("there is one");
        if line.chars().count() + 2 + word.chars().count() > WIDTH {
            lines.push(format!("          {word}"));
        } else {
            line.push_str("  ");
            line.push_str(&word);
        }
    }
    lines.iter().map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::fake::ring;

    #[test]
    fn a_ring_of_three_nodes() {
        let text = render(&ring(false), false);
        let lines: Vec<&str> = text.lines().collect();
        let third = "AAAAAAAABBBBBBBBCCCCCCCC";
        // g2 is being moved, and g3 has no quorum.
        assert_eq!(lines[0], format!("  0 AAAAAAAAbbbbbbbb!!!!!!!!{third}AAAAAAAABBBBBBBB"));
        assert_eq!(lines[1], format!(" 64 CCCCCCCC{third}{third}AAAAAAAA"));
        assert!(lines[2].starts_with("128 B") && lines[3].starts_with("192 A"), "{text}");
        assert_eq!(lines[4], "");
        assert_eq!(lines[5], "leaders:  A alpha  B beta  C gamma  lower case: being moved  ! no quorum");
        assert_eq!(lines.len(), 6);
    }

    #[test]
    fn many_nodes_fit_eighty_columns() {
        let mut ring = ring(false);
        let node = ring.nodes[0].clone();
        ring.nodes = (0..40)
            .map(|index| crate::api::types::RingNodeView {
                name: format!("a-long-name-of-node-{index}"),
                ..node.clone()
            })
            .collect();
        ring.group_count = 256;
        let placement = ring.groups[0].clone();
        ring.groups = (0..256)
            .map(|index| PlacementView {
                partitions: crate::api::types::PartitionsView { first: index, last: index },
                leader: (index != 9).then(|| format!("a-long-name-of-node-{}", index % 40)),
                ..placement.clone()
            })
            .collect();
        let text = render(&ring, false);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(text.starts_with("  0 ABCDEFGHI.KLMNOPQRSTUVWXYZ0123456789****ABCD"), "{text}");
        assert!(text.contains("* other nodes") && text.contains(". no leader known"), "{text}");
    }

    #[test]
    fn colours_run_over_neighbours_and_change_no_letter() {
        let (plain, coloured) = (render(&ring(false), false), render(&ring(false), true));
        assert!(
            coloured
                .contains("\x1b[30;48;5;114mAAAAAAAA\x1b[0m\x1b[30;48;5;180mbbbbbbbb\x1b[0m\x1b[97;41m!!")
        );
        let mut stripped = String::new();
        let mut rest = coloured.as_str();
        while let Some(at) = rest.find('\x1b') {
            stripped.push_str(&rest[..at]);
            rest = &rest[at + rest[at..].find('m').unwrap() + 1..];
        }
        assert_eq!(stripped + rest, plain);
    }
}
