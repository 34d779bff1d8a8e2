//! The names that a type has on the wire, asked of the type itself: before it
//! reads a value, what serde derives tells the reader all that there can be.

use serde::de::value::Error;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, VariantAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};

/// The fields of a struct.
pub fn fields<T: for<'de> Deserialize<'de>>() -> Vec<&'static str> {
    let mut asked = Asked::default();
    let _ = T::deserialize(Asker(0, &mut asked));
    asked.fields.expect("no struct")
}

/// The variants of an enum, and the fields of each.
pub fn variants<T: for<'de> Deserialize<'de>>() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut all = Vec::new();
    loop {
        let mut asked = Asked::default();
        let _ = T::deserialize(Asker(all.len(), &mut asked));
        let Some(name) = asked.variants.get(all.len()) else {
            return all;
        };
        all.push((*name, asked.fields.unwrap_or_default()));
    }
}

#[derive(Default)]
struct Asked {
    variants: &'static [&'static str],
    fields: Option<Vec<&'static str>>,
}

/// Reads the variant of this number, and has no value for anything.
struct Asker<'a>(usize, &'a mut Asked);

impl Asker<'_> {
    fn fields<T>(self, fields: &'static [&'static str]) -> Result<T, Error> {
        self.1.fields = Some(fields.to_vec());
        Err(Error::custom("asked"))
    }
}

impl<'de> Deserializer<'de> for Asker<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("neither a struct nor an enum"))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.fields(fields)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.1.variants = variants;
        visitor.visit_enum(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option
        unit unit_struct newtype_struct seq tuple tuple_struct map identifier ignored_any
    }
}

impl<'de> EnumAccess<'de> for Asker<'_> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let number = self.0 as u64;
        let number = IntoDeserializer::<Error>::into_deserializer(number);
        Ok((seed.deserialize(number)?, self))
    }
}

impl<'de> VariantAccess<'de> for Asker<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        seed.deserialize(self)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
        Err(Error::custom("a tuple has no names"))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Error> {
        self.fields(fields)
    }
}

#[test]
fn a_type_tells_its_names() {
    use harness_fs::control::{Ended, Outcome, Request};
    assert_eq!(
        fields::<Ended>(),
        ["started", "exit_code", "signal", "timed_out"]
    );
    let requests = variants::<Request>();
    assert!(requests.contains(&("status", vec![])), "{requests:?}");
    assert!(requests.contains(&("step_exec", vec!["step"])));
    assert!(requests.iter().any(|(name, fields)| {
        *name == "export" && fields == &["snapshot", "to", "without_base", "allow_secret", "compat"]
    }));
    assert!(variants::<Outcome>().contains(&("waiting-for-group", vec![])));
}
