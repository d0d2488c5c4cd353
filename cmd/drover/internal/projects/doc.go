// Package projects has the command drover adopt-project. It moves the data of a Docker Compose project into volumes of
// Drover, and back into volumes of Docker's driver local. Package main adds the command to the command tree. The
// package talks to the engine of this host, to `docker compose`, and to Drover's API. Package composefile changes the
// text of the Compose files.
//
// # State
//
// The package owns the journal of a project, a file in /var/lib/drover-projects, which only root can write to. It
// exists from the confirmation of a move until --confirm or --undo. It records each step before the step begins.
// Beside each Compose file that changes there is the changed file (.drover-new) until the files are exchanged, and the
// old file (.before-drover) from then on. If a Compose file was edited after the exchange, --undo keeps the edited
// file (.changed-drover).
//
// # What protects the data
//
//   - The old volumes and directories are only read.
//   - Before a container is stopped, `docker compose config` must print the same for the changed files as for the old
//     files, except for the mounts and volumes of the plan (model.go).
//   - The mounts of existing containers must be those of the Compose files, and the image and the variables of running
//     ones those of docker compose config (containers.go).
//   - A copy is made while no container of the project runs. Drover compares each import with its source. A copy of an
//     earlier run of the command, and each export, is compared again before the files are exchanged (compare.go).
//   - A Compose file is exchanged by a rename. At each moment the old file exists under one of its two names
//     (exchange.go).
//   - After the exchange, a container that mounts something else than the changed files say is recreated before a
//     container is started (start.go). The mounts are checked before and after the start.
//   - A lock file beside the journal prevents two runs for one project.
//
// Every step can be repeated. So after an interruption the same command continues, and --undo works at each step.
// Once the old files are back, --undo ends, also if a service does not start (undo.go). It needs the engine, and no
// Drover.
//
// # To add something
//
// To add a step, add a constant in journal.go, and the step to the table in steps.go. To add a reason why a mount is
// not moved, add it to sources.go or, for --leave, to inspectDrover in plan.go. To support another engine, implement
// Engine.
package projects
