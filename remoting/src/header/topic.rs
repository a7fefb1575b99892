//! Topics and routes.

use super::{FieldValue, header};
use crate::body::TopicFilterType;
use crate::ext::{Ext, FieldError};

header! {
    /// 17, create a topic or change its settings.
    CreateTopicHeader {
        topic: String = "topic",
        default_topic: Option<String> = "defaultTopic",
        read_queue_nums: i32 = "readQueueNums",
        write_queue_nums: i32 = "writeQueueNums",
        /// Read 4, write 2, inherit 1.
        perm: i32 = "perm",
        topic_filter_type: TopicFilterType = "topicFilterType",
        topic_sys_flag: Option<i32> = "topicSysFlag",
        order: bool = "order" or false,
        /// `+key=value,-key`, from 5.x clients.
        attributes: Option<String> = "attributes",
    }
}

impl FieldValue for TopicFilterType {
    fn read(ext: &Ext, field: &'static str) -> Result<Option<Self>, FieldError> {
        let Some(text) = ext.get(field) else { return Ok(None) };
        let known = [Self::SingleTag, Self::MultiTag].into_iter().find(|known| known.name() == text);
        known.map(Some).ok_or_else(|| FieldError::invalid(field, &text, "SINGLE_TAG or MULTI_TAG"))
    }
    fn write(&self, ext: &mut Ext, field: &'static str) {
        ext.set(field, self.name());
    }
}

header! {
    /// 202, 215, 300 and 351: a topic.
    TopicHeader {
        topic: String = "topic",
    }
}

header! {
    /// 105, the route of a topic.
    RouteHeader {
        topic: String = "topic",
        accept_standard_json_only: bool = "acceptStandardJsonOnly" or false,
    }
}

header! {
    /// 216, delete a topic at the name server.
    DeleteTopicRouteHeader {
        topic: String = "topic",
        cluster_name: Option<String> = "clusterName",
    }
}

header! {
    /// 224, topics of a cluster.
    ClusterHeader {
        cluster: String = "cluster",
    }
}
