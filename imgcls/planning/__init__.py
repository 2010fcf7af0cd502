"""What a training will take before it is begun: memory, hours, energy and money, on one GPU and on many."""

from imgcls.planning.cost import Plan, Scaling, make_plan, scaling
from imgcls.planning.hardware import Hardware, hardware_names, read_hardware
from imgcls.planning.text import plan_text

__all__ = [
    "Hardware",
    "Plan",
    "Scaling",
    "hardware_names",
    "make_plan",
    "plan_text",
    "read_hardware",
    "scaling",
]
