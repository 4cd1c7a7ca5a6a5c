//! Who is the master: what most sentinels say, and the server itself confirms.

use redis::aio::MultiplexedConnection;
use redis::{Value, cmd};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::address::Node;
use super::connection::{Connector, in_one_write};
use super::{Failure, Reason};

/// Asks all sentinels at once. One that was cut off from the others may name the master of before, so most of them decide;
/// those that do not answer are waited for no longer than half of the time there is.
pub(super) async fn master(connector: &Connector, sentinels: &[Node], name: &str) -> Result<Node, Failure> {
    let mut asked = JoinSet::new();
    for sentinel in sentinels {
        let (connector, sentinel, name) = (connector.clone(), sentinel.clone(), name.to_owned());
        asked.spawn(async move { ask(&connector, &sentinel, &name).await });
    }
    let mut votes: Vec<(Node, usize)> = Vec::new();
    let mut last = Failure::new(Reason::Timeout, "no sentinel answers");
    let counting = async {
        while let Some(answer) = asked.join_next().await {
            let node = match answer {
                Ok(Ok(node)) => node,
                Ok(Err(failure)) => {
                    last = failure;
                    continue;
                }
                Err(error) => {
                    last = Failure::new(Reason::Other, error.to_string());
                    continue;
                }
            };
            let count = match votes.iter_mut().find(|(known, _)| *known == node) {
                Some((_, count)) => {
                    *count += 1;
                    *count
                }
                None => {
                    votes.push((node, 1));
                    1
                }
            };
            if count > sentinels.len() / 2 {
                break;
            }
        }
    };
    // Late or not, what has been said until then counts.
    timeout(connector.limit() / 2, counting).await.ok();
    votes.into_iter().max_by_key(|(_, count)| *count).map(|(node, _)| node).ok_or(last)
}

/// The connection, if its server says that it is a master.
pub(super) async fn confirm(
    mut connection: MultiplexedConnection,
    node: &Node,
) -> Result<MultiplexedConnection, Failure> {
    let role = in_one_write(&mut connection, vec![cmd("ROLE")]).await.pop().transpose()?;
    match role {
        Some(Value::Array(parts)) if parts.first().is_some_and(|role| is_text(role, "master")) => Ok(connection),
        Some(_) | None => Err(Failure::new(Reason::ReadOnly, format!("{node} is not the master any more"))),
    }
}

async fn ask(connector: &Connector, sentinel: &Node, name: &str) -> Result<Node, Failure> {
    let mut connection = connector.to_sentinel(sentinel, || None).await?;
    master_of(&mut connection, sentinel, name).await
}

/// Whom a sentinel calls the master.
pub(super) async fn master_of(
    connection: &mut MultiplexedConnection,
    sentinel: &Node,
    name: &str,
) -> Result<Node, Failure> {
    let mut question = cmd("SENTINEL");
    question.arg("GET-MASTER-ADDR-BY-NAME").arg(name);
    let said = in_one_write(connection, vec![question]).await.pop().transpose()?;
    let unknown = || Failure::new(Reason::Other, format!("sentinel {sentinel} knows no master of this name"));
    let Some(Value::Array(parts)) = said else { return Err(unknown()) };
    let [Value::BulkString(host), Value::BulkString(port)] = parts.as_slice() else { return Err(unknown()) };
    let port = str::from_utf8(port).ok().and_then(|port| port.parse().ok()).ok_or_else(unknown)?;
    Ok(Node { host: String::from_utf8_lossy(host).into_owned(), port })
}

/// Whether this is the text, in whichever form the protocol has it.
pub(super) fn is_text(value: &Value, text: &str) -> bool {
    match value {
        Value::BulkString(bytes) => bytes == text.as_bytes(),
        Value::SimpleString(string) => string == text,
        _ => false,
    }
}
