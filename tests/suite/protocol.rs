//! What a client sees (docs/API.md).

use crate::harness::{Client, Service};

#[tokio::test]
async fn each_text_message_is_answered_with_its_number() {
    let service = Service::start(&[]);
    let mut client = Client::connect(&service.url()).await;
    for n in 1..=10 {
        client.send("hello").await;
        assert_eq!(client.count().await, n);
    }
}
