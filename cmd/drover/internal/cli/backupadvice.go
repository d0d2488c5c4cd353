package cli

// backupAdvice is the part of advice for the words of restic, borg and other programs for backups. It also has further
// words that newcomers typed in a trial.
var backupAdvice = map[string]string{
	"backup check":         checkBackups,
	"backup test":          checkBackups,
	"backup schedule":      scheduleBackups,
	"backup recover":       recoverVolumes,
	"repository recover":   recoverVolumes,
	"repository restore":   recoverVolumes,
	"backup restore --all": recoverVolumes,
	"backup mount":         mountBackup,
	"repository mount":     mountBackup,
	"backup forget":        "use drover backup rm --dry-run BACKUP, and the same without --dry-run",
	"backup snapshots":     "use drover backup ls",
	"backup prune --dry-run": "prune removes no backup, only data that no backup needs; drover backup rm --dry-run " +
		"BACKUP shows what the removal of a backup destroys",
	"backup prune --yes":          "prune asks for no confirmation, because it removes no backup",
	"backup prune --keep":         removeBackups,
	"backup prune --keep-last":    removeBackups,
	"backup prune --keep-daily":   removeBackups,
	"backup prune --keep-weekly":  removeBackups,
	"backup prune --keep-monthly": removeBackups,
	"backup prune --keep-within":  removeBackups,
	"backup prune --older-than":   removeBackups,
	"backup prune --all":          removeBackups,

	"cloudsnap":         "use drover backup create VOLUME, drover backup ls, or drover backup restore BACKUP NEW",
	"repository backup": "use drover backup create VOLUME --to NAME",
	"repository prune":  "use drover backup prune --repository NAME",
	"repository stats":  "use drover repository inspect NAME",
	"repository unlock": unlockRepository,
	"backup unlock":     unlockRepository,
	"remote":            shareRepository,
	"remotes":           shareRepository,
	"push --force":      pushReplacesNothing,
	"pull --force":      "a pull never changes an existing volume: use drover pull REPOSITORY/NAME --as NEW",
	"backup create --all": "name the volumes, such as drover backup create VOLUME VOLUME; drover volume ls " +
		"-o name lists them",
	"snapshot create --all": "name the volumes, such as drover snapshot create VOLUME VOLUME; drover volume ls " +
		"-o name lists them",

	"snapshot hold":    keepInProfile,
	"snapshot release": keepInProfile,
	"snapshot forget":  pruneByAge,
	"hold":             keepInProfile,
	"replica rebuild":  replicasUpdate,
	"replica repair":   replicasUpdate,
	"replica sync":     replicasUpdate,
	"volume rebuild":   replicasUpdate,
	"rebuild": replicasUpdate + "; drover store rebuild --dry-run shows which lost records of the " +
		"store it restores",

	"step-down":             noLeader,
	"stepdown":              noLeader,
	"node step-down":        noLeader,
	"events --failed":       "use drover operation ls --filter state=failed",
	"operation ls --failed": "use --filter state=failed",
	"pool create --file":    imagePool,
	"pool create --loop":    imagePool,
}

// removeBackups is the advice for a user who wants to remove old backups.
const removeBackups = "prune removes no backup: use drover backup rm --dry-run BACKUP for one backup; keep, below " +
	"backup in profiles.yaml, says which scheduled backups are kept"

// pushReplacesNothing is the advice for a user who wants a push to replace what a repository has.
const pushReplacesNothing = "a push never replaces what the repository has: use drover push VOLUME REPOSITORY --as NEW"

// shareRepository is the advice for a user who looks for the remotes and grants of earlier versions of Drover.
const shareRepository = "a remote is a repository: use drover repository add, drover repository versions, drover " +
	"push and drover pull; docs/push-and-pull.md shows how to serve repositories to other parties"

// checkBackups is the advice for a user who wants to know whether backups can be restored.
const checkBackups = "use drover repository check NAME, which checks all backups of a repository"

// scheduleBackups is the advice for a user who wants backups at fixed times.
const scheduleBackups = "a schedule belongs to a profile: set backup in profiles.yaml, systemctl reload drover, then " +
	"drover volume set-profile NAME PROFILE"

// recoverVolumes is the advice for a user who wants all volumes back from their backups.
const recoverVolumes = "use drover recover --from NAME, which lists the volumes that it can bring back"

// mountBackup is the advice for a user who wants to read files of a backup.
const mountBackup = "use drover backup restore BACKUP NEW, and start a container with the new volume"

// unlockRepository is the advice for a user whose repository is locked.
const unlockRepository = "wait for the other run of restic, which the error names; Drover removes the lock of a " +
	"killed process of its host"

// noLeader is the advice for a user who wants another leader of control.
const noLeader = "replicas of control are equal, and none leads: to take one out of service, stop its service"

// imagePool is the advice for a user who wants a pool in a file.
const imagePool = "use --path FILE --image SIZE for a pool in a new image file"
