//! An append whose conditions are looked at while its locks are held, in a transaction of several statements.

use super::{Answer, BatchAnswer, BatchError, BatchSession, StoreError, judge};
use crate::domain::append::{AppendRequest, Condition, QueryCondition};

impl BatchSession {
    /// The session is used by nobody else meanwhile.
    pub(super) async fn append_holding_locks(
        &self,
        request: &AppendRequest,
        wanted: Option<&[bool]>,
        awaited: &[&str],
    ) -> Result<BatchAnswer, BatchError> {
        self.simple("BEGIN").await?;
        let answer = match self.call(&[request], wanted, awaited).await {
            // The locks stay with the transaction: nothing comes any more but from writers that do not take them.
            Ok(BatchAnswer { answers, .. }) if matches!(answers[..], [Answer::LookFirst]) => {
                match self.look(request).await {
                    Ok(Some(looked)) => self.call(&[&looked], wanted, awaited).await,
                    Ok(None) => Ok(BatchAnswer { answers, ..BatchAnswer::default() }),
                    Err(error) => Err(BatchError::NotWritten(error)),
                }
            }
            other => other,
        };
        let is_written = matches!(&answer, Ok(answer) if matches!(answer.answers[..], [Answer::Done(Ok(_))]));
        match &answer {
            Ok(_) if is_written => self.simple("COMMIT").await?,
            // The connection is gone, and the transaction with it.
            Err(BatchError::InDoubt(_)) => {}
            // What is not said to be written must not stay open: a session on which that is not certain is ended. Ending a
            // look may take two signals, the second of which can hit this statement.
            _ => {
                let rolled_back = self.session.batch("ROLLBACK").await;
                rolled_back.map_err(|error| BatchError::InDoubt(error.to_string()))?;
            }
        }
        answer
    }

    async fn simple(&self, statement: &str) -> Result<(), BatchError> {
        self.session.client.batch_execute(statement).await.map_err(|error| judge(&error))
    }

    /// What has come since the conditions were looked at last; `None` if that is more than one page.
    async fn look(&self, request: &AppendRequest) -> Result<Option<AppendRequest>, StoreError> {
        let mut request = request.clone();
        for condition in &mut request.conditions {
            if let Condition::Query(query) = condition
                && !self.look_at(query).await?
            {
                return Ok(None);
            }
        }
        Ok(Some(request))
    }

    async fn look_at(&self, query: &mut QueryCondition) -> Result<bool, StoreError> {
        for (category, after) in &mut query.categories {
            let window = self.session.condition_window(category.as_str(), *after, &query.predicate).await?;
            if window.is_cut {
                return Ok(false);
            }
            if let Some(found) = window.found {
                query.found = Some(query.found.map_or(found, |known| known.min(found)));
            } else if window.is_end {
                *after = window.up_to;
            } else {
                return Ok(false);
            }
        }
        Ok(true)
    }
}
