//! What became of each letter.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Notify;

/// Connections whose end is told in words.
const PROBLEMS_MAX: usize = 5;

/// One message, by its sender, and all the times that it was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Letter {
    pub(crate) from: u32,
    pub(crate) to: u32,
    /// When it was to be sent first, on the clock.
    pub(crate) due: u64,
    pub(crate) tries: u32,
    pub(crate) refused: u32,
    /// When it was acknowledged, the first time.
    pub(crate) acked: Option<u64>,
    /// When it came to its recipient, the first time.
    pub(crate) delivered: Option<u64>,
    pub(crate) deliveries: u32,
}

/// An answer to one send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Answered {
    /// When this send was due, on the clock.
    pub(crate) asked: u64,
    pub(crate) at: u64,
    pub(crate) first_try: bool,
    /// Acknowledged; refused otherwise.
    pub(crate) stored: bool,
}

/// Letters by their number, and what is noted of them all.
#[derive(Default)]
pub(crate) struct Ledger {
    state: RefCell<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    letters: Vec<Letter>,
    answers: Vec<Answered>,
    /// Sends that were refused, by the error's code.
    refusals: BTreeMap<String, u64>,
    /// By sender and recipient: the letters that came, in their order.
    arrivals: BTreeMap<(u32, u32), Vec<u32>>,
    unacked: u64,
    undelivered: u64,
    /// What came to somebody else, or is no letter.
    astray: u64,
    answered_twice: u64,
    late: u64,
    disconnected: u64,
    problems: Vec<String>,
}

/// What was found in the end.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Verdict {
    pub(crate) letters: u64,
    /// Those that were sent more than once.
    pub(crate) sent_again: u64,
    /// Sends, the repeated ones included.
    pub(crate) sends: u64,
    /// Sends that were refused, by the error's code.
    pub(crate) refusals: BTreeMap<String, u64>,
    /// Sends that were never answered.
    pub(crate) unanswered: u64,
    pub(crate) answered_twice: u64,
    /// Letters without an acknowledgement.
    pub(crate) unacked: u64,
    /// Acknowledged, and did not come.
    pub(crate) lost: u64,
    /// Came once more.
    pub(crate) doubled: u64,
    /// Came to somebody else.
    pub(crate) astray: u64,
    /// Never refused, and came behind a later one that was never refused either.
    pub(crate) out_of_order: u64,
    /// The same with those that were sent again, which their sender may have put behind later ones
    /// itself.
    pub(crate) out_of_order_with_repeated: u64,
    /// Left their user late.
    pub(crate) late: u64,
    pub(crate) disconnected: u64,
    pub(crate) problems: Vec<String>,
}

impl Ledger {
    /// The message id of a letter.
    pub(crate) fn id(number: u32) -> String {
        format!("m{number}")
    }

    /// A letter is due; gives its number.
    pub(crate) fn write(&self, from: u32, to: u32, due: u64) -> u32 {
        let mut state = self.state.borrow_mut();
        state.unacked += 1;
        state.undelivered += 1;
        state.letters.push(Letter {
            from,
            to,
            due,
            ..Letter::default()
        });
        state.letters.len() as u32 - 1
    }

    /// It is sent, perhaps not for the first time.
    pub(crate) fn tried(&self, number: u32) {
        self.state.borrow_mut().letters[number as usize].tries += 1;
    }

    /// One of its sends was answered.
    pub(crate) fn answered(&self, number: u32, answer: Answered) {
        let mut state = self.state.borrow_mut();
        state.answers.push(answer);
        let letter = &mut state.letters[number as usize];
        if !answer.stored {
            letter.refused += 1;
        } else if letter.acked.is_none() {
            letter.acked = Some(answer.at);
            state.unacked -= 1;
        }
        self.changed.notify_one();
    }

    /// Why a send was refused.
    pub(crate) fn refused_as(&self, code: &str) {
        let mut state = self.state.borrow_mut();
        *state.refusals.entry(code.to_owned()).or_default() += 1;
    }

    /// An answer to a send that has one.
    pub(crate) fn answered_twice(&self) {
        self.state.borrow_mut().answered_twice += 1;
    }

    /// A letter has come to this user.
    pub(crate) fn delivered(&self, number: Option<u32>, recipient: u32, now: u64) {
        let state = &mut *self.state.borrow_mut();
        let letter = number.and_then(|number| state.letters.get_mut(number as usize));
        let (Some(letter), Some(number)) = (letter.filter(|l| l.to == recipient), number) else {
            state.astray += 1;
            return;
        };
        letter.deliveries += 1;
        if letter.delivered.is_none() {
            letter.delivered = Some(now);
            state.undelivered -= 1;
            let arrivals = state.arrivals.entry((letter.from, letter.to)).or_default();
            arrivals.push(number);
        }
        self.changed.notify_one();
    }

    /// A letter left its user late.
    pub(crate) fn late(&self) {
        self.state.borrow_mut().late += 1;
    }

    /// A user's connection has ended.
    pub(crate) fn disconnected(&self, why: &anyhow::Error) {
        let mut state = self.state.borrow_mut();
        state.disconnected += 1;
        if state.problems.len() < PROBLEMS_MAX {
            state.problems.push(format!("{why:#}"));
        }
    }

    /// Waits until all letters are acknowledged, but not longer than `patience`.
    pub(crate) async fn all_acked(&self, patience: Duration) {
        self.until(patience, |state| state.unacked == 0).await;
    }

    /// Waits until all letters are acknowledged and have come, but not longer than `patience`.
    pub(crate) async fn all_settled(&self, patience: Duration) {
        self.until(patience, |state| {
            state.unacked == 0 && state.undelivered == 0
        })
        .await;
    }

    async fn until(&self, patience: Duration, reached: impl Fn(&State) -> bool) {
        let wait = async {
            while !reached(&self.state.borrow()) {
                self.changed.notified().await;
            }
        };
        // What has not happened by then is in the verdict.
        let _ = tokio::time::timeout(patience, wait).await;
    }

    /// All letters so far.
    pub(crate) fn letters(&self) -> Vec<Letter> {
        self.state.borrow().letters.clone()
    }

    /// All answers so far, in their order.
    pub(crate) fn answers(&self) -> Vec<Answered> {
        self.state.borrow().answers.clone()
    }

    /// What was found so far.
    pub(crate) fn verdict(&self) -> Verdict {
        let state = self.state.borrow();
        let letters = &state.letters;
        let count = |which: fn(&Letter) -> bool| letters.iter().filter(|l| which(l)).count() as u64;
        let sends = letters.iter().map(|l| u64::from(l.tries)).sum();
        let of_order = |refused_too: bool| -> u64 {
            let behind = state.arrivals.values().map(|arrivals| {
                overtaken(
                    arrivals
                        .iter()
                        .copied()
                        .filter(|number| refused_too || letters[*number as usize].refused == 0),
                )
            });
            behind.sum()
        };
        Verdict {
            letters: letters.len() as u64,
            sent_again: count(|l| l.tries > 1),
            sends,
            refusals: state.refusals.clone(),
            unanswered: sends - state.answers.len() as u64,
            answered_twice: state.answered_twice,
            unacked: state.unacked,
            lost: count(|l| l.acked.is_some() && l.deliveries == 0),
            doubled: letters
                .iter()
                .map(|l| u64::from(l.deliveries.saturating_sub(1)))
                .sum(),
            astray: state.astray,
            out_of_order: of_order(false),
            out_of_order_with_repeated: of_order(true),
            late: state.late,
            disconnected: state.disconnected,
            problems: state.problems.clone(),
        }
    }
}

/// Which letter has that message id.
pub(crate) fn letter_of(id: &str) -> Option<u32> {
    id.strip_prefix('m')?.parse().ok()
}

/// How many come behind a higher one.
fn overtaken(numbers: impl Iterator<Item = u32>) -> u64 {
    let mut highest = None;
    let mut count = 0;
    for number in numbers {
        if highest > Some(number) {
            count += 1;
        } else {
            highest = Some(number);
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(stored: bool) -> Answered {
        Answered {
            asked: 0,
            at: 1,
            first_try: true,
            stored,
        }
    }

    /// Five letters from 1 to 2, acked; the second was refused before.
    fn ledger() -> Ledger {
        let ledger = Ledger::default();
        for _ in 0..5 {
            let number = ledger.write(1, 2, 0);
            ledger.tried(number);
            if number == 1 {
                ledger.answered(number, answer(false));
                ledger.refused_as("unavailable");
                ledger.tried(number);
            }
            ledger.answered(number, answer(true));
        }
        ledger
    }

    #[test]
    fn a_letter_is_known_by_its_id() {
        assert_eq!(letter_of(&Ledger::id(12)), Some(12));
        assert_eq!(letter_of("12"), None);
        assert_eq!(letter_of("mx"), None);
    }

    #[test]
    fn faults_are_told_apart() {
        // What comes, and what is found: lost, doubled, astray, out of order, the same with repeated.
        let table: [(&[u32], [u64; 5]); 6] = [
            (&[0, 1, 2, 3, 4], [0, 0, 0, 0, 0]),
            (&[0, 1, 2, 4], [1, 0, 0, 0, 0]),
            (&[0, 1, 2, 2, 3, 4], [0, 1, 0, 0, 0]),
            // The second one was put behind by its sender, who sent it again.
            (&[0, 2, 3, 1, 4], [0, 0, 0, 0, 1]),
            (&[0, 1, 3, 2, 4], [0, 0, 0, 1, 1]),
            (&[0, 1, 2, 3, 4, 9], [0, 0, 1, 0, 0]),
        ];
        for (comes, [lost, doubled, astray, out_of_order, with_repeated]) in table {
            let ledger = ledger();
            for number in comes {
                ledger.delivered(Some(*number), 2, 5);
            }
            let expected = Verdict {
                letters: 5,
                sent_again: 1,
                sends: 6,
                refusals: BTreeMap::from([("unavailable".to_owned(), 1)]),
                lost,
                doubled,
                astray,
                out_of_order,
                out_of_order_with_repeated: with_repeated,
                ..Verdict::default()
            };
            assert_eq!(ledger.verdict(), expected, "{comes:?}");
        }
    }

    #[test]
    fn what_comes_to_somebody_else_has_not_come() {
        let ledger = ledger();
        ledger.delivered(Some(0), 1, 5);
        ledger.delivered(None, 2, 5);
        let verdict = ledger.verdict();
        assert_eq!((verdict.astray, verdict.lost), (2, 5));
    }

    #[test]
    fn what_is_not_answered_is_neither_acked_nor_lost() {
        let ledger = Ledger::default();
        let number = ledger.write(1, 2, 0);
        ledger.tried(number);
        let verdict = ledger.verdict();
        assert_eq!(
            (verdict.unanswered, verdict.unacked, verdict.lost),
            (1, 1, 0)
        );
    }

    #[tokio::test]
    async fn waiting_ends_when_all_has_come_or_patience_has() {
        let ledger = ledger();
        let forever = Duration::from_secs(3600);
        ledger.all_acked(forever).await;
        ledger.all_settled(Duration::ZERO).await;
        for number in 0..5 {
            ledger.delivered(Some(number), 2, 5);
        }
        ledger.all_settled(forever).await;
    }
}
