//! Frames that are not about requests: settings, windows, resets, pings.

use std::time::{Duration, Instant};

use super::super::abuse::Abuse;
use super::super::call::Handler;
use super::super::connection::{Connection, FAREWELL};
use super::super::fault::Fault;
use super::super::frame::{
    self, ErrorCode, FRAME_MAX_BYTES, FRAME_MOST_BYTES, FrameHeader, WINDOW_MOST_BYTES, flag,
    setting,
};
use super::super::sending::Overflow;
use super::{depends_on, rapid_reset};

/// Clients of gRPC know this text, and ping less often from then on.
const TOO_MANY_PINGS: &str = "too_many_pings";

/// Who gives up a call after so long has waited for it, as one whose deadline has passed does. There can be no more of these
/// in such a time than there may be streams.
const WAITED: Duration = Duration::from_millis(5);

impl Connection {
    pub(super) fn on_settings(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(Fault::protocol("SETTINGS on a stream"));
        }
        let work = self.sending.work();
        if self.budgets.settings.take(now, work).is_err() {
            return Err(Fault::abuse(Abuse::Settings, "too many SETTINGS"));
        }
        if header.has(flag::ACK) {
            if !payload.is_empty() {
                return Err(Fault::frame_size(
                    "an acknowledgement of SETTINGS with settings",
                ));
            }
            if !self.timing.has_ack {
                self.timing.has_ack = true;
                self.decoder.limit(self.limits.header_table_bytes as usize);
            }
            return Ok(());
        }
        if !payload.len().is_multiple_of(6) {
            return Err(Fault::frame_size("SETTINGS that are no pairs"));
        }
        let mut has_window = false;
        for (id, value) in frame::settings(payload) {
            let is_window = id == setting::INITIAL_WINDOW_SIZE;
            // It is a change of all streams, each time that it is said.
            if is_window
                && std::mem::replace(&mut has_window, true)
                && self.budgets.settings.take(now, work).is_err()
            {
                return Err(Fault::abuse(Abuse::Settings, "too many settings"));
            }
            self.on_setting(id, value)?;
        }
        self.timing.has_settings = true;
        frame::put_settings_ack(&mut self.sending.out.bytes);
        Ok(())
    }

    fn on_setting(&mut self, id: u16, value: u32) -> Result<(), Fault> {
        match id {
            setting::HEADER_TABLE_SIZE => self.sending.replies.limit_table(value),
            setting::ENABLE_PUSH if value > 1 => {
                return Err(Fault::protocol("ENABLE_PUSH is neither 0 nor 1"));
            }
            setting::INITIAL_WINDOW_SIZE => {
                let too_large = |_| flow_control("INITIAL_WINDOW_SIZE makes a window too large");
                if value > WINDOW_MOST_BYTES {
                    return Err(too_large(Overflow));
                }
                self.sending.set_initial_window(value).map_err(too_large)?;
            }
            setting::MAX_FRAME_SIZE => {
                if !(FRAME_MAX_BYTES..=FRAME_MOST_BYTES).contains(&value) {
                    return Err(Fault::protocol("MAX_FRAME_SIZE is out of its range"));
                }
                self.sending.set_frame_max(value);
            }
            _ => (),
        }
        Ok(())
    }

    pub(super) fn on_ping(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(Fault::protocol("PING on a stream"));
        }
        let Ok(data) = <[u8; 8]>::try_from(payload) else {
            return Err(Fault::frame_size("PING with other than 8 bytes"));
        };
        let work = self.sending.work();
        if self.budgets.pings.take(now, work).is_err() {
            return Err(Fault::abuse(Abuse::Ping, TOO_MANY_PINGS));
        }
        if !header.has(flag::ACK) {
            frame::put_ping(&mut self.sending.out.bytes, flag::ACK, data);
        } else if data == FAREWELL {
            self.shut_down_finally();
        }
        Ok(())
    }

    pub(super) fn on_window_update(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Fault> {
        let Ok(bytes) = <[u8; 4]>::try_from(payload) else {
            return Err(Fault::frame_size("WINDOW_UPDATE with other than 4 bytes"));
        };
        let increment = u32::from_be_bytes(bytes) & WINDOW_MOST_BYTES;
        let work = self.sending.work();
        if self.budgets.window_updates.take(now, work).is_err() {
            return Err(Fault::abuse(Abuse::WindowUpdate, "too many WINDOW_UPDATEs"));
        }
        let id = header.stream;
        if id == 0 {
            if increment == 0 {
                return Err(Fault::protocol("WINDOW_UPDATE of nothing"));
            }
            return self
                .sending
                .widen(increment)
                .map_err(|_| flow_control("the connection's window is too large"));
        }
        let Some(slot) = self.sending.streams.find(id) else {
            return self.refuse_idle(id);
        };
        if increment == 0 {
            return Err(Fault::stream(id, ErrorCode::PROTOCOL_ERROR));
        }
        let too_large = |_| Fault::stream(id, ErrorCode::FLOW_CONTROL_ERROR);
        self.sending
            .widen_stream(slot, increment)
            .map_err(too_large)
    }

    pub(super) fn on_reset(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        now: Instant,
        handler: &mut impl Handler,
    ) -> Result<(), Fault> {
        if payload.len() != 4 {
            return Err(Fault::frame_size("RST_STREAM with other than 4 bytes"));
        }
        let id = header.stream;
        let Some(slot) = self.sending.streams.find(id) else {
            self.refuse_idle(id)?;
            return self.idle_frame(now);
        };
        let stream = self.sending.remove(slot);
        self.forget(&stream, handler);
        if now >= stream.since + WAITED {
            return Ok(());
        }
        let answered = self.sending.answered;
        self.budgets
            .resets
            .take(now, answered)
            .map_err(|_| Fault::Connection(rapid_reset()))
    }

    pub(super) fn on_priority(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Fault> {
        let id = header.stream;
        if id == 0 {
            return Err(Fault::protocol("PRIORITY on the connection"));
        }
        let is_open = self.sending.streams.find(id).is_some();
        let fault = |code, reason| match is_open {
            true => Fault::stream(id, code),
            false => Fault::connection(code, reason),
        };
        let Ok(priority) = <&[u8; 5]>::try_from(payload) else {
            return Err(fault(
                ErrorCode::FRAME_SIZE_ERROR,
                "PRIORITY with other than 5 bytes",
            ));
        };
        if depends_on(priority) == id {
            return Err(fault(
                ErrorCode::PROTOCOL_ERROR,
                "a stream that depends on itself",
            ));
        }
        self.idle_frame(now)
    }

    pub(super) fn on_goaway(
        &mut self,
        header: FrameHeader,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), Fault> {
        if header.stream != 0 {
            return Err(Fault::protocol("GOAWAY on a stream"));
        }
        if payload.len() < 8 {
            return Err(Fault::frame_size("GOAWAY with less than 8 bytes"));
        }
        // It is about streams of ours, and there are none.
        self.idle_frame(now)
    }

    /// A frame that changes nothing: a few of them are no harm.
    pub(in super::super) fn idle_frame(&mut self, now: Instant) -> Result<(), Fault> {
        let work = self.sending.work();
        let taken = self.budgets.idle_frames.take(now, work);
        taken.map_err(|_| Fault::abuse(Abuse::Idle, "too many frames that mean nothing"))
    }

    /// Frames on a stream that was never opened are an error of the connection.
    pub(in super::super) fn refuse_idle(&self, id: u32) -> Result<(), Fault> {
        if id > self.opened.last() || id.is_multiple_of(2) || self.opened.was_skipped(id) {
            return Err(Fault::protocol("a frame on a stream that was never opened"));
        }
        Ok(())
    }
}

fn flow_control(reason: &'static str) -> Fault {
    Fault::connection(ErrorCode::FLOW_CONTROL_ERROR, reason)
}
