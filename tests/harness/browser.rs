//! A headless Chromium with one page, driven over the Chrome DevTools Protocol.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use futures_util::{SinkExt, StreamExt};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::service::die_with_us;
use super::{SOON, procfs, within};

/// The browser. Dropping it kills all its processes.
pub struct Browser {
    _processes: Processes,
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
    /// What commands to the page are addressed to.
    page: Option<String>,
    /// Number of the last command.
    last: u64,
    complaints: Vec<String>,
}

impl Browser {
    /// Starts the browser, with a page that shows nothing yet: 1280 × 800, light.
    pub async fn start() -> Browser {
        Browser::start_with(&[]).await
    }

    /// Starts the browser with further arguments.
    pub async fn start_with(arguments: &[&str]) -> Browser {
        let mut processes = Processes::start(arguments);
        let url = processes.wait_listening();
        let connected = timeout(SOON, connect_async(url)).await.expect("an answer to the handshake");
        let (socket, _) = connected.expect("DevTools of Chromium");
        let mut browser = Browser { _processes: processes, socket, page: None, last: 0, complaints: Vec::new() };
        browser.attach().await;
        browser.resize(1280, 800).await;
        browser
    }

    /// From here on commands are for the page, and it tells what goes wrong in it.
    async fn attach(&mut self) {
        let deadline = Instant::now() + SOON;
        let target = loop {
            let targets = self.call("Target.getTargets", json!({})).await;
            let page = targets["targetInfos"].as_array().and_then(|all| all.iter().find(|it| it["type"] == "page"));
            match page {
                Some(page) => break page["targetId"].clone(),
                None => assert!(Instant::now() < deadline, "no page within {SOON:?}: {targets}"),
            }
        };
        let attached = self.call("Target.attachToTarget", json!({ "targetId": target, "flatten": true })).await;
        self.page = Some(attached["sessionId"].as_str().expect("the name of a session").to_owned());
        for domain in ["Page", "Runtime", "Log"] {
            self.call(&format!("{domain}.enable"), json!({})).await;
        }
    }

    /// Sends a command and waits for its result.
    pub async fn call(&mut self, method: &str, params: Value) -> Value {
        self.try_call(method, params).await.unwrap_or_else(|error| panic!("{method}: {error}"))
    }

    async fn try_call(&mut self, method: &str, params: Value) -> Result<Value, Value> {
        self.last += 1;
        let mut command = json!({ "id": self.last, "method": method, "params": params });
        if let Some(page) = &self.page {
            command["sessionId"] = json!(page);
        }
        self.socket.send(Message::text(command.to_string())).await.expect("the browser lives");
        loop {
            let next = timeout(SOON, self.socket.next()).await;
            let message = next.unwrap_or_else(|_| panic!("no answer to {method} within {SOON:?}"));
            let message = message.expect("the browser lives").expect("the browser lives");
            let mut message: Value = serde_json::from_str(message.to_text().expect("text")).expect("JSON");
            if message["id"] != self.last {
                self.hear(&message);
            } else if message["error"].is_null() {
                return Ok(message["result"].take());
            } else {
                return Err(message["error"].take());
            }
        }
    }

    /// Keeps what an event says of something that is not well.
    fn hear(&mut self, event: &Value) {
        let params = &event["params"];
        let is_bad = |level: &Value| matches!(level.as_str(), Some("error" | "warning" | "assert"));
        match event["method"].as_str() {
            // Also what the browser has refused: a policy's violation, a file that is not there.
            Some("Log.entryAdded") if is_bad(&params["entry"]["level"]) => {
                self.complaints.push(params["entry"]["text"].to_string());
            }
            Some("Runtime.exceptionThrown") => self.complaints.push(params["exceptionDetails"].to_string()),
            Some("Runtime.consoleAPICalled") if is_bad(&params["type"]) => {
                self.complaints.push(params["args"].to_string());
            }
            Some("Inspector.targetCrashed" | "Target.detachedFromTarget") => panic!("the page has crashed"),
            _ => {}
        }
    }

    /// Errors and warnings of the page and about it since this was last asked.
    pub async fn complaints(&mut self) -> Vec<String> {
        // All that has happened before comes before the answer.
        self.evaluate("0").await;
        std::mem::take(&mut self.complaints)
    }

    /// Goes to an address, and waits until the page is there with all that belongs to it.
    pub async fn open(&mut self, url: &str) {
        // So that what is waited for below is the new one, also when it has the same address.
        self.evaluate("window.isOld = true").await;
        let result = self.call("Page.navigate", json!({ "url": url })).await;
        assert!(result["errorText"].is_null(), "{url}: {result}");
        self.wait_for("!window.isOld && document.readyState === 'complete'").await;
    }

    /// The value of an expression in the page; if that is a promise, what it promises.
    pub async fn evaluate(&mut self, expression: &str) -> Value {
        self.try_evaluate(expression).await.unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    async fn try_evaluate(&mut self, expression: &str) -> Result<Value, Value> {
        let params = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let mut result = self.try_call("Runtime.evaluate", params).await?;
        assert!(result["exceptionDetails"].is_null(), "{expression}: {}", result["exceptionDetails"]);
        Ok(result["result"]["value"].take())
    }

    /// Looks until an expression is there and not false, and returns its value.
    pub async fn wait_for(&mut self, expression: &str) -> Value {
        let deadline = Instant::now() + SOON;
        loop {
            // Between two pages there is nothing that could say anything.
            let value = self.try_evaluate(expression).await.unwrap_or_default();
            if !matches!(value, Value::Null | Value::Bool(false)) {
                return value;
            }
            if Instant::now() >= deadline {
                let text = self.evaluate("document.body.innerText").await;
                let text = text.as_str().unwrap_or_default();
                panic!("not within {SOON:?}: {expression}\n{:?}\n--- the page:\n{text}", self.complaints);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits for two frames: the first may lead to events, such as those of scrolling, and these to changes.
    pub async fn settle(&mut self) {
        self.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))).then(() => 0)")
            .await;
    }

    /// Clicks on an element.
    pub async fn click(&mut self, selector: &str) {
        let point = self.reach(selector).await;
        for kind in ["mousePressed", "mouseReleased"] {
            let params = json!({ "type": kind, "x": point["x"], "y": point["y"], "button": "left", "clickCount": 1 });
            self.call("Input.dispatchMouseEvent", params).await;
        }
    }

    /// Turns the wheel of the mouse over an element; down, if `pixels` is positive.
    pub async fn wheel(&mut self, selector: &str, pixels: i32) {
        let point = self.reach(selector).await;
        let params = json!({ "type": "mouseWheel", "x": point["x"], "y": point["y"], "deltaX": 0, "deltaY": pixels });
        self.call("Input.dispatchMouseEvent", params).await;
    }

    /// Where an element is, as soon as a hand could use it: it is in sight, enabled, and nothing is over it.
    async fn reach(&mut self, selector: &str) -> Value {
        let point = format!(
            "(() => {{
               const element = document.querySelector({selector:?});
               if (!element || element.disabled) return null;
               element.scrollIntoView({{ block: 'nearest' }});
               const box = element.getBoundingClientRect();
               const at = {{ x: box.x + box.width / 2, y: box.y + box.height / 2 }};
               return element.contains(document.elementFromPoint(at.x, at.y)) ? at : null;
             }})()"
        );
        self.wait_for(&point).await
    }

    /// Types text where the focus is.
    pub async fn type_in(&mut self, text: &str) {
        self.call("Input.insertText", json!({ "text": text })).await;
    }

    /// The Enter key.
    pub async fn press_enter(&mut self) {
        for kind in ["keyDown", "keyUp"] {
            let mut key = json!({ "type": kind, "key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13 });
            if kind == "keyDown" {
                key["text"] = json!("\r");
            }
            self.call("Input.dispatchKeyEvent", key).await;
        }
    }

    /// Another size of the window, in CSS pixels.
    pub async fn resize(&mut self, width: u32, height: u32) {
        let params = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", params).await;
    }

    /// The screen of a phone, in CSS pixels: the page's `viewport` counts, and fingers tap.
    pub async fn be_phone(&mut self, width: u32, height: u32) {
        let params = json!({ "width": width, "height": height, "deviceScaleFactor": 2, "mobile": true });
        self.call("Emulation.setDeviceMetricsOverride", params).await;
        self.call("Emulation.setTouchEmulationEnabled", json!({ "enabled": true })).await;
    }

    /// If somebody wants to see them (`BATON_TEST_SCREENSHOTS` names a directory): the page as it is now, from its top.
    pub async fn screenshot(&mut self, name: &str) {
        let Some(directory) = std::env::var_os("BATON_TEST_SCREENSHOTS") else { return };
        let params = json!({ "format": "png", "captureBeyondViewport": true });
        let shot = self.call("Page.captureScreenshot", params).await;
        let png = BASE64_STANDARD.decode(shot["data"].as_str().expect("an image")).expect("base64");
        fs::write(std::path::Path::new(&directory).join(format!("{name}.png")), png).expect("the directory is there");
    }

    /// What the user has set for all pages: `dark` or `light`.
    pub async fn prefer(&mut self, scheme: &str) {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features })).await;
    }
}

/// The browser's processes, all in one group, and what they have on the disk.
struct Processes {
    child: Child,
    /// Profile, home and log.
    dir: TempDir,
}

impl Processes {
    fn start(arguments: &[&str]) -> Processes {
        let dir = tempfile::Builder::new().prefix("baton-browser-").tempdir().expect("a temporary directory");
        let log = File::create(dir.path().join("log")).expect("a log file");
        let mut command = Command::new("chromium");
        command
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            // It talks to the page's server and to nobody else.
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"])
            .args(["--no-proxy-server", "--remote-debugging-port=0"])
            .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
            .args(arguments)
            .arg("about:blank")
            .env("HOME", dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .process_group(0);
        die_with_us(&mut command);
        match command.spawn() {
            Ok(child) => Processes { child, dir },
            Err(error) if error.kind() == ErrorKind::NotFound => {
                panic!("the tests of pages need Chromium, as `chromium` in the PATH")
            }
            Err(error) => panic!("Chromium cannot be started: {error}"),
        }
    }

    /// Waits until the browser can be driven; returns the URL for that.
    fn wait_listening(&mut self) -> String {
        // Wider than elsewhere: a browser that starts beside other tests has needed more than 20 seconds.
        within(Duration::from_secs(90), "DevTools of Chromium", || {
            let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("Chromium ended with {status}:\n{log}");
            }
            Some(log.split_once("DevTools listening on ")?.1.split_once('\n')?.0.to_owned())
        })
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.child.id() as i32);
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.child.wait();
        // Somebody else reaps the others. Until they are gone they write to the directory that is removed next.
        let end = Instant::now() + SOON;
        while procfs::is_group_alive(group) && Instant::now() < end {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}
