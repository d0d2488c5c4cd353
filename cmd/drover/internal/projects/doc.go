// Package projects has the command drover adopt-project. It moves the data of a Docker Compose project into volumes of
// Drover, and back into volumes of Docker's driver local. Package main adds the command to the command tree. The
// package talks to the engine of this host, to `docker compose`, and to Drover's API. Package composefile changes the
// text of the Compose files.
//
// # State
//
// The package owns the journal of a project, the file .drover-PROJECT.json in the folder of the project. It exists from
// the confirmation of a move until --confirm or --undo. It records each step before the step begins. Beside each
// Compose file there is the changed file (.drover-new) until the files are exchanged, and the old file
// (.before-drover) from then on.
//
// # What protects the data
//
//   - The old volumes and directories are only read.
//   - Before anything is stopped, `docker compose config` must make of the changed files what it makes of the old ones,
//     except for the mounts and volumes of the plan (model.go).
//   - The mounts of existing containers must be those of the Compose files (sources.go).
//   - A copy is made while no container of the project runs. Drover compares each import with its source. A copy of an
//     earlier run of the command, and each export, is compared again before the files are exchanged (compare.go).
//   - A Compose file is exchanged by a rename. At each moment the old file exists under one of its two names
//     (exchange.go).
//   - A lock prevents two runs for one project.
//
// Every step can be repeated. So after an interruption the same command continues, and --undo works at each step.
//
// # To add something
//
// To add a step, add it to the table in steps.go. To add a reason why a mount is not taken, add it to sources.go. To
// support another engine, implement Engine.
package projects
