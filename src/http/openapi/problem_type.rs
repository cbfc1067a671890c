//! The types of problems as an enum of the document.

use std::borrow::Cow;

use utoipa::openapi::RefOr;
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};
use utoipa::{PartialSchema, ToSchema};

use crate::http::problem::ProblemKind;

/// What a problem document's `type` may be: the closed list of problems.
pub struct ProblemType;

impl PartialSchema for ProblemType {
    fn schema() -> RefOr<Schema> {
        // Generators make names of the values; those of paths would be unreadable.
        let names = ProblemKind::ALL.map(|kind| kind.slug().replace('-', "_").to_uppercase());
        let schema = ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("The closed list of problems. Each is a path that serves a short page on the problem."))
            .enum_values(Some(ProblemKind::ALL.map(|kind| format!("/problems/{}", kind.slug()))))
            .extensions(Some(ExtensionsBuilder::new().add("x-enum-varnames", names.to_vec()).build()));
        schema.build().into()
    }
}

impl ToSchema for ProblemType {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("ProblemType")
    }
}
