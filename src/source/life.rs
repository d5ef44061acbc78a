//! Whether an API server lives: judged from whatever it says, on any connection.
//!
//! Each kind is watched on a connection of its own, and most kinds are quiet most of the
//! time. A server that said something to one of them need not be asked by the others; one that
//! was silent to all of them is asked once, for all.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::api::Fault;

/// The signs of life of one server.
pub(super) struct Life {
    heard: Mutex<Instant>,
    /// When the last question for all failed, and how.
    failed: tokio::sync::Mutex<Option<(Instant, Fault)>>,
}

impl Life {
    /// Of a server that was not asked yet.
    pub fn new() -> Self {
        Self {
            heard: Mutex::new(Instant::now()),
            failed: tokio::sync::Mutex::default(),
        }
    }

    /// It says something, or was given no chance to until now.
    pub fn sign(&self) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// When it said something last.
    pub fn heard(&self) -> Instant {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `question` asked, by one of those who doubt at once; what came of it, for all.
    ///
    /// # Errors
    /// If the question failed, unless something else was heard meanwhile.
    pub async fn doubted(
        &self,
        question: impl Future<Output = Result<(), Fault>>,
    ) -> Result<(), Fault> {
        let since = Instant::now();
        let mut failed = self.failed.lock().await;
        if self.heard() > since {
            return Ok(());
        }
        if let Some((at, fault)) = &*failed
            && *at >= since
        {
            return Err(fault.clone());
        }
        let answer = question.await;
        if let Err(fault) = &answer {
            *failed = Some((Instant::now(), fault.clone()));
        }
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use super::super::api::Reason;
    use super::*;

    #[test]
    fn those_who_doubt_at_once_ask_once_and_doubt_again_later() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            for lives in [true, false] {
                let life = Life::new();
                let asked = Cell::new(0);
                let question = || async {
                    asked.set(asked.get() + 1);
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    if !lives {
                        return Err(Fault::new(Reason::Silent, "nothing came"));
                    }
                    life.sign();
                    Ok(())
                };
                for round in 1..=2 {
                    let (a, b, c) = tokio::join!(
                        life.doubted(question()),
                        life.doubted(question()),
                        life.doubted(question())
                    );
                    for answer in [a, b, c] {
                        assert_eq!(answer.is_ok(), lives);
                    }
                    assert_eq!(asked.get(), round);
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        });
    }
}
