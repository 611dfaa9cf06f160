//! SQL filters between operators: a row for which the expression is not true is marked as dropped, like any other.

use crate::error::Error;
use crate::recipe::{FilterPlace, Recipe, SqlFilter};
use crate::session::Session;
use datafusion::common::tree_node::TreeNode;
use datafusion::logical_expr::{Expr, Volatility, lit, when};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::ident;
use std::sync::Arc;

/// Names of the filters at a place, in the recipe's order.
pub fn stages(recipe: &Recipe, place: FilterPlace) -> impl Iterator<Item = String> {
    recipe.filter.iter().filter(move |filter| filter.after == place).map(SqlFilter::stage)
}

/// Puts the recipe's filters for `place` over `plan`, whose rows are of `document::flow_schema`.
///
/// # Errors
/// When an expression does not parse, names a column that is not there, or is not boolean.
pub async fn place(
    session: &Session,
    recipe: &Recipe,
    place: FilterPlace,
    mut plan: Arc<dyn ExecutionPlan>,
) -> Result<Arc<dyn ExecutionPlan>, Error> {
    for filter in recipe.filter.iter().filter(|filter| filter.after == place) {
        plan = apply(session, filter, plan).await?;
    }
    Ok(plan)
}

async fn apply(session: &Session, filter: &SqlFilter, plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>, Error> {
    let wrong = |error: datafusion::error::DataFusionError| {
        Error::User(format!("filter `{}`: `{}`: {}", filter.name, filter.sql, error.strip_backtrace()))
    };
    let frame = session.frame(plan)?;
    let condition = session.sql.parse_sql_expr(&filter.sql, frame.schema()).map_err(wrong)?;
    let unsteady = |expr: &Expr| matches!(expr, Expr::ScalarFunction(call) if call.func.signature().volatility != Volatility::Immutable);
    if condition.exists(|expr| Ok(unsteady(expr))).map_err(wrong)? {
        return Err(Error::User(format!(
            "filter `{}`: `{}`: calls a function that gives another value each time; the same input has to give the same corpus",
            filter.name, filter.sql
        )));
    }
    // Only documents are asked: what was dropped before has no text, and may have no words to divide by.
    let drop = when(ident("drop_reason").is_null(), condition.is_not_true()).otherwise(lit(false))?;
    let columns: Vec<Expr> = frame
        .schema()
        .fields()
        .iter()
        .map(|field| {
            let (name, column) = (field.name(), ident(field.name()));
            let marked = match name.as_str() {
                "text" => lit(""),
                "drop_stage" => lit(filter.stage()),
                "drop_reason" => lit(filter.name.clone()),
                _ => return Ok(column),
            };
            Ok(when(drop.clone(), marked).otherwise(column)?.alias(name))
        })
        .collect::<datafusion::error::Result<_>>()
        .map_err(wrong)?;
    frame.select(columns).map_err(wrong)?.create_physical_plan().await.map_err(wrong)
}
