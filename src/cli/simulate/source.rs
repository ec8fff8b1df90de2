//! Traces in files, plain and compressed.

use std::error::Error;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use corecache::engine::policy::simulate::Trace;
use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::errors::{FrameDecoderError, ReadFrameHeaderError};
use ruzstd::decoding::{BlockDecodingStrategy, FrameDecoder};

use super::progress::{Progress, Watched};

const BUFFER_BYTES: usize = 256 << 10;
const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
/// Of a zstd frame; skippable frames, of which a file may have some at its start, begin with 0x5? in place of 0x28.
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// Reads a trace; `-` is standard input. What it is compressed with is told by its first bytes, not by its name.
pub fn read(path: &Path) -> Result<Trace, Box<dyn Error>> {
    let (input, bytes): (Box<dyn Read>, u64) = if path == Path::new("-") {
        (Box::new(io::stdin()), 0)
    } else {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        (Box::new(file), bytes)
    };
    let progress = Progress::new("reading", bytes);
    decode(BufReader::with_capacity(
        BUFFER_BYTES,
        Watched::new(input, &progress),
    ))
}

fn decode(mut input: impl BufRead) -> Result<Trace, Box<dyn Error>> {
    let start = input.fill_buf()?;
    let is_gzip = start.starts_with(GZIP_MAGIC);
    let is_zstd = start.starts_with(ZSTD_MAGIC);
    let trace = if is_gzip {
        Trace::read(BufReader::with_capacity(
            BUFFER_BYTES,
            Unpacked("gzip", MultiGzDecoder::new(input)),
        ))
    } else if is_zstd {
        Trace::read(BufReader::with_capacity(
            BUFFER_BYTES,
            Unpacked("zstd", ZstdFrames::new(input)),
        ))
    } else {
        Trace::read(input)
    };
    Ok(trace?)
}

/// What a decoder of this name makes of a file; its errors say so.
struct Unpacked<R>(&'static str, R);

impl<R: Read> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self(name, decoder) = self;
        decoder.read(buffer).map_err(|error| {
            io::Error::other(format!(
                "what follows is no {name} any more ({error}); is the file cut off, or damaged?"
            ))
        })
    }
}

/// All frames of a zstd file, one after the other.
struct ZstdFrames<R> {
    input: R,
    frame: FrameDecoder,
}

impl<R: BufRead> ZstdFrames<R> {
    fn new(input: R) -> Self {
        Self {
            input,
            frame: FrameDecoder::new(),
        }
    }

    /// Goes to the next frame; false if there is none. What the last one gave is checked by its checksum, if it has one.
    fn open(&mut self) -> io::Result<bool> {
        if self.frame.get_checksum_from_data().is_some()
            && self.frame.get_checksum_from_data() != self.frame.get_calculated_checksum()
        {
            return Err(io::Error::other(
                "a zstd frame is damaged, its checksum is wrong",
            ));
        }
        while !self.input.fill_buf()?.is_empty() {
            match self.frame.init(&mut self.input) {
                Ok(()) => return Ok(true),
                Err(FrameDecoderError::ReadFrameHeaderError(ReadFrameHeaderError::SkipFrame {
                    length,
                    ..
                })) => {
                    let mut skipped = self.input.by_ref().take(length.into());
                    io::copy(&mut skipped, &mut io::sink())?;
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        Ok(false)
    }
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.frame.can_collect() == 0 {
            if self.frame.is_finished() {
                if !self.open()? {
                    return Ok(0);
                }
            } else {
                let one = BlockDecodingStrategy::UptoBlocks(1);
                let decoded = self.frame.decode_blocks(&mut self.input, one);
                decoded.map_err(io::Error::other)?;
            }
        }
        self.frame.read(buffer)
    }
}
