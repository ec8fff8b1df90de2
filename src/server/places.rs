//! What a thread looks after, by tokens that are never used twice.

/// How many turns there are: the highest bit of a token is for others to use.
const TURNS: u32 = u32::MAX >> 1;

/// Which place, and how often it has been given away before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Token {
    index: u32,
    turn: u32,
}

impl Token {
    pub fn to_bits(self) -> u64 {
        u64::from(self.turn) << 32 | u64::from(self.index)
    }

    pub fn from_bits(bits: u64) -> Self {
        Self {
            index: bits as u32,
            turn: (bits >> 32) as u32,
        }
    }
}

pub(super) struct Places<T> {
    places: Vec<Place<T>>,
    free: Vec<u32>,
}

struct Place<T> {
    turn: u32,
    content: Option<T>,
}

impl<T> Places<T> {
    pub fn new() -> Self {
        Self {
            places: Vec::new(),
            free: Vec::new(),
        }
    }

    pub fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn insert(&mut self, content: T) -> Token {
        self.insert_with(|_| content)
    }

    /// Keeps what `make` makes of its token.
    pub fn insert_with(&mut self, make: impl FnOnce(Token) -> T) -> Token {
        let index = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place {
                turn: 0,
                content: None,
            });
            (self.places.len() - 1) as u32
        });
        let place = &mut self.places[index as usize];
        let token = Token {
            index,
            turn: place.turn,
        };
        place.content = Some(make(token));
        token
    }

    pub fn get_mut(&mut self, token: Token) -> Option<&mut T> {
        let place = self.places.get_mut(token.index as usize)?;
        place.content.as_mut().filter(|_| place.turn == token.turn)
    }

    pub fn remove(&mut self, token: Token) -> Option<T> {
        let place = self.places.get_mut(token.index as usize)?;
        if place.turn != token.turn {
            return None;
        }
        let content = place.content.take()?;
        place.turn = place.turn.wrapping_add(1) & TURNS;
        self.free.push(token.index);
        Some(content)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = (Token, &mut T)> {
        let places = self.places.iter_mut().zip(0..);
        places.filter_map(|(place, index)| {
            let turn = place.turn;
            let content = place.content.as_mut()?;
            Some((Token { index, turn }, content))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_of_one_content_alone() {
        let mut places = Places::new();
        let (a, b) = (places.insert('a'), places.insert('b'));
        assert_eq!(Token::from_bits(a.to_bits()), a);
        assert_eq!(places.remove(a), Some('a'));
        let c = places.insert('c');
        assert_ne!(a, c);
        assert_eq!(places.get_mut(a), None);
        assert_eq!(places.remove(a), None);
        assert_eq!(places.get_mut(c), Some(&mut 'c'));
        let all: Vec<_> = places.iter_mut().map(|(token, _)| token).collect();
        assert_eq!((all, places.len()), (vec![c, b], 2));
    }
}
