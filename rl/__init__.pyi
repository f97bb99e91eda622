from .agents.dqn_config import DQNConfig
from .agents.graph_policy import GraphScheduler
from .agents.graph_training import (
    GraphTrainConfig,
    GraphTrainResult,
    load_graph_scheduler,
    save_graph_scheduler,
    train_graph_scheduler,
    training_problems,
)
from .agents.presets import acrobot, cartpole, edge_sched_dqn, pendulum
from .agents.program import TrainResult, make_train
from .agents.sac_config import SACConfig
from .agents.training import load_agent, train, train_many
from .checkpoints import CheckpointError
from .decisions.controller import Controller
from .decisions.explain import attributions, decision_map, value_gaps
from .decisions.export import export_controller, export_policy, load_policy
from .decisions.onnx_export import export_onnx
from .decisions.plots import plot_attributions, plot_decision_map, plot_value_gaps
from .decisions.ranges import ObservationRange, training_range
from .decisions.recommender import Recommender, load_recommender
from .decisions.recommending.judging import judge_recommender
from .decisions.recommending.training import train_recommender
from .decisions.records import ControlDecision, ControlLimits
from .decisions.router import ComplexityRouter, RoutedBatch
from .decisions.routing_tiers.guides import Guide, load_guide
from .decisions.routing_tiers.reports import RouteOption, RoutingReport
from .decisions.routing_tiers.states import HardwareState
from .decisions.routing_tiers.training import train_guide
from .envs.ambients import AmbientTrace
from .envs.dag_problems import SchedulingProblem, scheduling_problem, stack_problems
from .envs.dag_simulator import Heat
from .envs.dags import GraphParams, GraphSchedulingEnv, GraphState
from .envs.precision import PrecisionEnv, PrecisionParams, PrecisionState
from .envs.routing import RoutingParams, RoutingState, SchedulingEnv
from .envs.spaces import Box, Discrete, Hybrid, HybridAction
from .references.bounds import score_bounds
from .references.exact import Optimum, optimal_schedule
from .references.grids import Context, GridNodes, RoutingGrid
from .references.list_scheduling import LIST_SCHEDULERS, Schedule, best_list_schedule, check_schedule, heft, mct, peft, rank_list
from .references.makespan_bounds import area_bound, critical_path, lower_bound, mixed_bound
from .references.optimal import RoutingOptimum, extrapolate, predicted_scores, solve_routing, starts
from .references.rules import Policy, baselines
from .references.tabular import GridRoutingEnv
from .study.evaluation import Episodes, evaluate, evaluate_runs
from .study.graph_comparison import compare_graph_schedulers
from .study.logs import TrainingLog
from .study.statistics import (
    Estimate,
    bootstrap_interval,
    interquartile_mean,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
    steps_to_reach,
    target_return,
)

__all__ = [
    "LIST_SCHEDULERS",
    "AmbientTrace",
    "Box",
    "CheckpointError",
    "ComplexityRouter",
    "Context",
    "ControlDecision",
    "ControlLimits",
    "Controller",
    "DQNConfig",
    "Discrete",
    "Episodes",
    "Estimate",
    "GraphParams",
    "GraphScheduler",
    "GraphSchedulingEnv",
    "GraphState",
    "GraphTrainConfig",
    "GraphTrainResult",
    "GridNodes",
    "GridRoutingEnv",
    "Guide",
    "HardwareState",
    "Heat",
    "Hybrid",
    "HybridAction",
    "ObservationRange",
    "Optimum",
    "Policy",
    "PrecisionEnv",
    "PrecisionParams",
    "PrecisionState",
    "Recommender",
    "RouteOption",
    "RoutedBatch",
    "RoutingGrid",
    "RoutingOptimum",
    "RoutingParams",
    "RoutingReport",
    "RoutingState",
    "SACConfig",
    "Schedule",
    "SchedulingEnv",
    "SchedulingProblem",
    "TrainResult",
    "TrainingLog",
    "acrobot",
    "area_bound",
    "attributions",
    "baselines",
    "best_list_schedule",
    "bootstrap_interval",
    "cartpole",
    "check_schedule",
    "compare_graph_schedulers",
    "critical_path",
    "decision_map",
    "edge_sched_dqn",
    "evaluate",
    "evaluate_runs",
    "export_controller",
    "export_onnx",
    "export_policy",
    "extrapolate",
    "heft",
    "interquartile_mean",
    "judge_recommender",
    "load_agent",
    "load_graph_scheduler",
    "load_guide",
    "load_policy",
    "load_recommender",
    "lower_bound",
    "make_train",
    "mct",
    "mixed_bound",
    "optimal_schedule",
    "optimality_gap",
    "peft",
    "pendulum",
    "performance_profile",
    "plot_attributions",
    "plot_decision_map",
    "plot_value_gaps",
    "predicted_scores",
    "probability_of_improvement",
    "rank_list",
    "save_graph_scheduler",
    "scheduling_problem",
    "score_bounds",
    "solve_routing",
    "stack_problems",
    "starts",
    "steps_to_reach",
    "target_return",
    "train",
    "train_graph_scheduler",
    "train_guide",
    "train_many",
    "train_recommender",
    "training_problems",
    "training_range",
    "value_gaps",
]
