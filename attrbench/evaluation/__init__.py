"""Run methods on tasks: from requests by a plan, jobs and scoring to records."""
