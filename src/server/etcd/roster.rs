//! The members as they stand in etcd: a key for each, below a prefix, with what is known of it as JSON.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::cluster::Member;
use crate::server::pb::etcd::event::EventType;
use crate::server::pb::etcd::{Event, KeyValue};

/// Who has registered below a prefix.
#[derive(Debug, Default)]
pub(super) struct Roster {
    prefix: Vec<u8>,
    members: BTreeMap<Vec<u8>, Member>,
    own_key: Vec<u8>,
    own: Option<Entry>,
}

/// How a key was written last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub mod_revision: i64,
    pub lease: i64,
}

impl Roster {
    pub fn new(prefix: &str, own: &Member, keys: &[KeyValue]) -> Self {
        let mut roster = Self {
            prefix: prefix.into(),
            own_key: key(prefix, own),
            ..Self::default()
        };
        keys.iter().for_each(|key| roster.put(key));
        roster
    }

    pub fn take(&mut self, event: &Event) {
        match event.type_.enum_value_or_default() {
            EventType::PUT => self.put(&event.kv),
            EventType::DELETE => self.delete(&event.kv.key),
        }
    }

    /// How the own key was written last, if it is there.
    pub fn own(&self) -> Option<Entry> {
        self.own
    }

    pub fn members(&self) -> Vec<Member> {
        self.members.values().cloned().collect()
    }

    fn put(&mut self, key_value: &KeyValue) {
        let key = &key_value.key;
        if *key == self.own_key {
            self.own = Some(Entry {
                mod_revision: key_value.mod_revision,
                lease: key_value.lease,
            });
        }
        match read(&key_value.value) {
            Ok(member) if key.strip_prefix(&*self.prefix) == Some(member.address.as_bytes()) => {
                self.members.insert(key.clone(), member);
            }
            Ok(member) => {
                self.refuse(key, &format!("it is the key of {}", member.address));
            }
            Err(error) => self.refuse(key, &error),
        }
    }

    /// An entry that can not be read is nobody.
    fn refuse(&mut self, key: &[u8], why: &str) {
        log::warn!(
            "members: etcd: {}: {why}; it is passed over",
            String::from_utf8_lossy(key)
        );
        self.members.remove(key);
    }

    fn delete(&mut self, key: &[u8]) {
        self.members.remove(key);
        if *key == *self.own_key {
            self.own = None;
        }
    }
}

/// The key of a member.
pub(super) fn key(prefix: &str, member: &Member) -> Vec<u8> {
    format!("{prefix}{}", member.address).into()
}

/// What etcd keeps of a member.
pub(super) fn value(member: &Member) -> Vec<u8> {
    let value = json!({
        "address": member.address,
        "weight": member.weight,
        "zone": member.zone,
        "version": env!("CARGO_PKG_VERSION"),
    });
    value.to_string().into()
}

/// A member as its own node has written it. What this version does not know is skipped.
fn read(value: &[u8]) -> Result<Member, String> {
    let value: Value =
        serde_json::from_slice(value).map_err(|error| format!("it is no JSON: {error}"))?;
    let text = |name: &str| match value.get(name) {
        Some(Value::String(text)) => Ok(text.as_str()),
        _ => Err(format!("it has no text {name:?}")),
    };
    let weight = value.get("weight").and_then(Value::as_u64);
    let weight = weight.ok_or("it has no number \"weight\"")?;
    let zone = match text("zone")? {
        "" => String::new(),
        zone => format!("@{zone}"),
    };
    let member = format!("{}={weight}{zone}", text("address")?);
    Member::parse(&member).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(text: &str) -> Member {
        Member::parse(text).unwrap()
    }

    fn key_value(key: &str, value: &[u8]) -> KeyValue {
        KeyValue {
            key: key.into(),
            value: value.to_owned(),
            mod_revision: 7,
            lease: 8,
            ..KeyValue::default()
        }
    }

    fn event(kind: EventType, key_value: KeyValue) -> Event {
        Event {
            type_: kind.into(),
            kv: Some(key_value).into(),
            ..Event::default()
        }
    }

    #[test]
    fn a_member_is_what_was_written() {
        for text in ["a:1", "b:1=7", "[::1]:1=9@z"] {
            assert_eq!(read(&value(&member(text))), Ok(member(text)));
        }
        let newer = br#"{"address":"a:1","weight":100,"zone":"","hands":2}"#;
        assert_eq!(read(newer), Ok(member("a:1")));
    }

    #[test]
    fn members_come_and_go() {
        let (a, b) = (member("a:1"), member("b:1=7@z"));
        let mut roster = Roster::new("/m/", &a, &[key_value("/m/b:1", &value(&b))]);
        assert_eq!(roster.members(), std::slice::from_ref(&b));
        assert_eq!(roster.own(), None);
        roster.take(&event(EventType::PUT, key_value("/m/a:1", &value(&a))));
        assert_eq!(roster.members(), [a, b.clone()]);
        let entry = Entry {
            mod_revision: 7,
            lease: 8,
        };
        assert_eq!(roster.own(), Some(entry));
        roster.take(&event(EventType::DELETE, key_value("/m/a:1", b"")));
        assert_eq!(roster.members(), [b]);
        assert_eq!(roster.own(), None);
    }

    #[test]
    fn what_is_no_member_is_skipped() {
        let a = member("a:1");
        let good = value(&a);
        let wrong: [(&str, &[u8]); 7] = [
            ("/m/b:1", &good),
            ("/m/a:1", b"no JSON"),
            ("/m/a:1", br#"["a:1"]"#),
            ("/m/a:1", br#"{"address":"a:1","weight":0,"zone":""}"#),
            ("/m/a:1", br#"{"address":"a:1","weight":1,"zone":"="}"#),
            ("/m/a:1", br#"{"address":"a:1=7","weight":1,"zone":""}"#),
            ("/m/A:1", br#"{"address":"A:1","weight":1,"zone":""}"#),
        ];
        for (key, value) in wrong {
            let roster = Roster::new("/m/", &a, &[key_value(key, value)]);
            assert_eq!(roster.members(), [], "{key}");
        }
        // One that was good is no longer.
        let mut roster = Roster::new("/m/", &a, &[key_value("/m/a:1", &good)]);
        roster.take(&event(EventType::PUT, key_value("/m/a:1", b"{}")));
        assert_eq!(roster.members(), []);
    }
}
