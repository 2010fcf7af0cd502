"""What `imgcls doctor` looks at before a run: its images, the machine, and the speed of both. Torch comes late."""

from imgcls.doctor.diagnosis import diagnose
from imgcls.doctor.findings import Finding, Status, as_line

__all__ = ["Finding", "Status", "as_line", "diagnose"]
