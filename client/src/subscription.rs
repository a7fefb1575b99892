//! What a consumer wants of a topic.

use raftmq_message::hash::java_hash;
use raftmq_remoting::body::{CheckClientRequest, SubscriptionData};
use raftmq_remoting::codes::{request, response};
use raftmq_remoting::{Command, Ext, fastjson};

use crate::client::Client;
use crate::error::ClientError;
use crate::message::MessageExt;

/// Tags are compared by the client too: brokers compare hashes of them first.
pub(crate) const TAG: &str = "TAG";
/// The name of the other kind of expression.
const SQL92: &str = "SQL92";
/// Every message.
const ALL: &str = "*";

/// Which messages of a topic a consumer gets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MessageSelector {
    expression_type: &'static str,
    expression: String,
}

impl MessageSelector {
    /// Messages with one of these tags, joined by `||`; `*` stands for all messages.
    pub fn by_tag(tags: impl Into<String>) -> Self {
        Self { expression_type: TAG, expression: tags.into() }
    }

    /// Messages whose properties satisfy an SQL92 expression, such as `region = 'north' AND amount > 10`.
    pub fn by_sql(expression: impl Into<String>) -> Self {
        Self { expression_type: SQL92, expression: expression.into() }
    }

    /// Every message.
    pub fn all() -> Self {
        Self::by_tag(ALL)
    }

    /// Whether brokers have to be asked what they make of it.
    pub(crate) fn is_tag(&self) -> bool {
        self.expression_type == TAG
    }

    /// As brokers are told. `version` grows with each change of the subscription.
    pub(crate) fn subscription(&self, topic: &str, version: i64) -> Result<SubscriptionData, ClientError> {
        let mut data = SubscriptionData {
            topic: topic.to_owned(),
            sub_string: self.expression.clone(),
            expression_type: self.expression_type.to_owned(),
            sub_version: version,
            ..SubscriptionData::default()
        };
        if !self.is_tag() {
            if self.expression.trim().is_empty() {
                return Err(ClientError::Invalid(format!("an empty SQL expression for {topic}")));
            }
            return Ok(data);
        }
        if self.expression.is_empty() || self.expression == ALL {
            data.sub_string = ALL.to_owned();
            return Ok(data);
        }
        for tag in self.expression.split("||").map(str::trim).filter(|tag| !tag.is_empty()) {
            if !data.tags_set.iter().any(|known| known == tag) {
                data.tags_set.push(tag.to_owned());
                data.code_set.push(java_hash(tag));
            }
        }
        if data.tags_set.is_empty() {
            let reason = format!("no tag in the expression {:?} for {topic}", self.expression);
            return Err(ClientError::Invalid(reason));
        }
        Ok(data)
    }
}

impl Client {
    /// Asks a broker whether it can work with a group's subscription (46).
    pub(crate) async fn check_subscription(
        &self,
        group: &str,
        subscription: &SubscriptionData,
    ) -> Result<(), ClientError> {
        let queues = self.fetch_queues(&subscription.topic).await?;
        let Some(queue) = queues.first() else {
            let what = "queue that can be read".to_owned();
            return Err(ClientError::Unroutable { topic: subscription.topic.clone(), what });
        };
        let check = CheckClientRequest {
            client_id: self.client_id().to_owned(),
            group: group.to_owned(),
            namespace: None,
            subscription_data: subscription.clone(),
        };
        let body = fastjson::to_vec(&check).map_err(|error| ClientError::Invalid(error.to_string()))?;
        let request = Command::request(request::CHECK_CLIENT_CONFIG, Ext::new()).with_body(body);
        let config = self.config();
        let (addr, answer) =
            self.call_queue(queue, &request, config.try_timeout, config.request_timeout).await?;
        if answer.code == response::SUCCESS { Ok(()) } else { Err(ClientError::refused(&addr, answer)) }
    }
}

/// Whether a message is one of those subscribed to, where brokers may have let through more: tags with the same hash.
pub(crate) fn accepts(subscription: &SubscriptionData, message: &MessageExt) -> bool {
    subscription.tags_set.is_empty()
        || message.tags().is_some_and(|tag| subscription.tags_set.iter().any(|wanted| wanted == tag))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_split_as_java_does() {
        let data = MessageSelector::by_tag("TagA || TagB||  TagA").subscription("T", 7).unwrap();
        assert_eq!(data.tags_set, ["TagA", "TagB"]);
        assert_eq!(data.code_set, [2_598_919, 2_598_920]);
        assert_eq!((data.sub_version, data.expression_type.as_str()), (7, "TAG"));
        for all in ["", "*"] {
            let data = MessageSelector::by_tag(all).subscription("T", 7).unwrap();
            assert_eq!((data.sub_string.as_str(), data.tags_set.len()), ("*", 0));
        }
        let error = MessageSelector::by_tag(" || ").subscription("T", 7).unwrap_err().to_string();
        assert!(error.contains("no tag"), "{error}");
    }

    #[test]
    fn sql_goes_to_the_broker_as_it_is() {
        let data = MessageSelector::by_sql("a > 1 || x").subscription("T", 7).unwrap();
        assert_eq!((data.sub_string.as_str(), data.expression_type.as_str()), ("a > 1 || x", "SQL92"));
        assert!(data.tags_set.is_empty());
        assert!(MessageSelector::by_sql(" ").subscription("T", 7).is_err());
    }
}
