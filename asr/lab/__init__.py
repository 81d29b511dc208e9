"""Runnable theory: recurrence, gradients through time, how far back they reach, and plots of it."""

from asr.lab.comparison import Expense, measure_gradients, verdict
from asr.lab.costs import CtcCost, SquaredError
from asr.lab.flow import Flow, compare_cells, gradient_flow, make_cell, model_gradient_flow
from asr.lab.memory import Recall, memory_task, train_recall
from asr.lab.pictures import plot_gradient_flow, plot_gradients, plot_lattice, plot_memory
from asr.lab.recurrence import Activity, Rnn, bptt, rnn_forward, rtrl

__all__ = [
    "Activity",
    "CtcCost",
    "Expense",
    "Flow",
    "Recall",
    "Rnn",
    "SquaredError",
    "bptt",
    "compare_cells",
    "gradient_flow",
    "make_cell",
    "measure_gradients",
    "memory_task",
    "model_gradient_flow",
    "plot_gradient_flow",
    "plot_gradients",
    "plot_lattice",
    "plot_memory",
    "rnn_forward",
    "rtrl",
    "train_recall",
    "verdict",
]
