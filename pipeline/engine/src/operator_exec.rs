//! The one adapter that makes any operator a DataFusion plan node.
//!
//! A node holds a [`OperatorSpec`], which is plain data, and a [`Context`], which is not: so a plan can be written to bytes and read
//! back elsewhere (codec.rs). Each partition runs its operator on a thread of its own, since operators are synchronous; a bounded channel
//! holds it back when nobody reads.

use crate::context::Context;
use crate::spec::OperatorSpec;
use arrow::array::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::col;
use datafusion::physical_expr::{EquivalenceProperties, LexOrdering, OrderingRequirements, PhysicalSortExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, ChildrenPropertiesMode, EmissionType};
use datafusion::physical_plan::metrics::{BaselineMetrics, ExecutionPlanMetricsSet, MetricsSet};
use datafusion::physical_plan::stream::RecordBatchReceiverStreamBuilder;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, Distribution, ExecutionPlan, ExecutionPlanProperties, Partitioning, PhysicalExpr, PlanProperties,
    ReplaceChildrenOptions,
};
use futures::StreamExt;
use osler_corpus::operator::{Error, Operator, Sink};
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use tokio::sync::mpsc::Sender;

/// Batches that wait between an operator and whoever reads it.
const CHANNEL_BATCHES: usize = 2;

/// An operator over its input.
#[derive(Debug)]
pub struct OperatorExec {
    spec: OperatorSpec,
    input: Arc<dyn ExecutionPlan>,
    context: Arc<Context>,
    properties: Arc<PlanProperties>,
    metrics: ExecutionPlanMetricsSet,
}

impl OperatorExec {
    /// Places `spec` over `input`.
    pub fn new(spec: OperatorSpec, input: Arc<dyn ExecutionPlan>, context: Arc<Context>) -> Self {
        let partitions = if spec.is_blocking() { 1 } else { input.output_partitioning().partition_count() };
        let mut equivalences = EquivalenceProperties::new(spec.output_schema(&input.schema()));
        if let Some(order) = input.output_ordering().filter(|_| spec.keeps_order()) {
            equivalences.add_ordering(order.iter().cloned());
        }
        let properties = PlanProperties::new(
            equivalences,
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { spec, input, context, properties: Arc::new(properties), metrics: ExecutionPlanMetricsSet::new() }
    }

    /// What the node runs.
    pub fn spec(&self) -> &OperatorSpec {
        &self.spec
    }
}

impl DisplayAs for OperatorExec {
    fn fmt_as(&self, _kind: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "OperatorExec: {}", self.spec)
    }
}

impl ExecutionPlan for OperatorExec {
    fn name(&self) -> &str {
        "OperatorExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    #[allow(deprecated)]
    fn required_input_distribution(&self) -> Vec<Distribution> {
        let schema = self.input.schema();
        let grouping: Vec<_> = self.spec.required_grouping().iter().filter_map(|name| col(name, &schema).ok()).collect();
        vec![match (self.spec.is_blocking(), grouping.is_empty()) {
            (true, _) => Distribution::SinglePartition,
            (false, true) => Distribution::UnspecifiedDistribution,
            (false, false) => Distribution::HashPartitioned(grouping),
        }]
    }

    fn required_input_ordering(&self) -> Vec<Option<OrderingRequirements>> {
        let schema = self.input.schema();
        let column = |name: &&str| col(name, &schema).ok().map(PhysicalSortExpr::new_default);
        let order = LexOrdering::new(self.spec.required_order().iter().filter_map(column));
        vec![order.map(OrderingRequirements::from)]
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![self.spec.keeps_order()]
    }

    fn benefits_from_input_partitioning(&self) -> Vec<bool> {
        vec![false]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(&self, _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        mut children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        if children.len() != 1 {
            return Err(DataFusionError::Internal(format!("{} takes one input, got {}", self.spec, children.len())));
        }
        Ok(Arc::new(Self::new(self.spec.clone(), children.swap_remove(0), self.context.clone())))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, task: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let partitions = self.input.output_partitioning().partition_count();
        if self.spec.is_blocking() && partitions != 1 {
            return Err(DataFusionError::Internal(format!("{} has to see all rows in one place, its input has {partitions}", self.spec)));
        }
        let input = self.input.execute(partition, task.clone())?;
        let mut builder = RecordBatchReceiverStreamBuilder::new(self.schema(), CHANNEL_BATCHES);
        let reservation = MemoryConsumer::new(self.spec.to_string()).register(task.memory_pool());
        let mut driver = Driver {
            spec: self.spec.clone(),
            context: self.context.clone(),
            input,
            output: builder.tx(),
            reservation,
            metrics: BaselineMetrics::new(&self.metrics, partition),
        };
        let handle = tokio::runtime::Handle::current();
        builder.spawn_blocking(move || match driver.run(&handle) {
            Err(DataFusionError::External(error)) if matches!(error.downcast_ref(), Some(Error::Closed)) => Ok(()),
            result => result,
        });
        Ok(builder.build())
    }

    fn metrics(&self) -> Option<MetricsSet> {
        Some(self.metrics.clone_inner())
    }
}

/// One partition at work.
struct Driver {
    spec: OperatorSpec,
    context: Arc<Context>,
    input: SendableRecordBatchStream,
    output: Sender<Result<RecordBatch>>,
    reservation: MemoryReservation,
    metrics: BaselineMetrics,
}

impl Driver {
    fn run(&mut self, handle: &tokio::runtime::Handle) -> Result<()> {
        let external = |error: Error| DataFusionError::External(Box::new(error));
        let mut operator = self.spec.build(&self.context, &self.input.schema()).map_err(external)?;
        let mut sink = ChannelSink { output: self.output.clone(), metrics: self.metrics.clone() };
        while let Some(batch) = handle.block_on(self.input.next()) {
            self.context.check_cancelled()?;
            let batch = batch?;
            let advance = self.spec.progress_bytes(&batch);
            {
                let time = self.metrics.elapsed_compute().clone();
                let _timer = time.timer();
                operator.push(batch, &mut sink).map_err(external)?;
            }
            self.context.advance(advance);
            self.reserve(operator.as_ref())?;
        }
        operator.finish(&mut sink).map_err(external)?;
        self.reserve(operator.as_ref())
    }

    fn reserve(&mut self, operator: &dyn Operator) -> Result<()> {
        let bytes = operator.memory_bytes();
        self.reservation.try_resize(bytes).map_err(|error| {
            DataFusionError::ResourcesExhausted(format!("{} needs {} MiB, more than is left of it: {error}", self.spec, bytes >> 20))
        })
    }
}

struct ChannelSink {
    output: Sender<Result<RecordBatch>>,
    metrics: BaselineMetrics,
}

impl Sink for ChannelSink {
    fn push(&mut self, batch: RecordBatch) -> ControlFlow<()> {
        if batch.num_rows() == 0 {
            return ControlFlow::Continue(());
        }
        self.metrics.record_output(batch.num_rows());
        match self.output.blocking_send(Ok(batch)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }
}
