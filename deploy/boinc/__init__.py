"""What a BOINC project deploys: the agent as one program, and the directory of an application's version."""
