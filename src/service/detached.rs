//! Work that goes on in a task of its own, though nobody asks for it.

use tokio_util::task::AbortOnDropHandle;

/// A worker, or the task in which it is at work.
///
/// A task of its own, because a connection asks for nothing while its client does not read: work that is half done
/// would hold up others until then. It ends with the connection.
pub enum Detached<W, R> {
    Idle(W),
    AtWork(AbortOnDropHandle<(W, R)>),
    /// The task panicked, which is logged.
    Lost,
}

impl<W, R> Detached<W, R>
where
    W: Send + 'static,
    R: Send + 'static,
{
    /// Puts an idle worker to work.
    pub fn begin<F>(&mut self, work: impl FnOnce(W) -> F)
    where
        F: Future<Output = (W, R)> + Send + 'static,
    {
        match std::mem::replace(self, Self::Lost) {
            Self::Idle(worker) => *self = Self::AtWork(AbortOnDropHandle::new(tokio::spawn(work(worker)))),
            other => *self = other,
        }
    }

    /// Waits for what comes of the work; `None` if it panicked. May be given up at any point without a loss.
    pub async fn done(&mut self) -> Option<R> {
        let Self::AtWork(task) = self else { return None };
        match task.await {
            Ok((worker, result)) => {
                *self = Self::Idle(worker);
                Some(result)
            }
            Err(_) => {
                *self = Self::Lost;
                None
            }
        }
    }
}
