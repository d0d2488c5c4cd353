package openapi

import "github.com/danielgtaylor/huma/v2"

// endpointTexts describes the endpoints whose handlers give no description, by operation ID.
var endpointTexts = map[string]string{
	"add-repository": "Control records where the repository is, and where nodes read its password. It does not open " +
		"the repository. Idempotent.",
	"check-repository": "The agent runs restic. It opens the repository of new, and makes it if init is set and " +
		"there is none. Of the recorded repository with the given name, it also checks the structure, and the given " +
		"part of the data. That can take hours, and ends if the caller closes the connection or the agent stops. " +
		"restic has the repository for itself meanwhile, and refuses backups to it. A host runs at most two such " +
		"checks at a time.",
	"list-backups": "The agent runs restic, which reads the list from the repository. Control has no list of " +
		"backups. Backups of volumes that no longer exist are listed, too. Backups that Drover has not made are " +
		"left out.",
	"get-backup": "The agent runs restic, which reads the record from the backup.",
	"remove-backup": "The data stays in the repository until prune-repository is called. A backup that Drover has " +
		"not made is refused.",
	"prune-repository": "It can take hours, and ends if the caller closes the connection or the agent stops. " +
		"restic has the repository for itself meanwhile, and refuses backups to it.",
	"get-repository":    "The answer has no secret: it names the file or the program that has the password.",
	"list-repositories": "In the order of their names.",
	"remove-repository": "The backups in the repository stay.",
	"cancel-operation": "Creates, clones, imports, conversions, snapshots, moves, backups and verifications can be " +
		"cancelled until they end. Idempotent.",
	"certify": "An agent asks before its certificate expires.",
	"commit":  "One transaction checks again all records on which the decision depends. Idempotent.",
	"copied":  "The report replaces the previous one.",
	"label-node": "A label that is set here replaces the label of drover.yaml with the same key, also at later " +
		"registrations. If it is removed, the label of drover.yaml applies again. Idempotent.",
	"cordon-node": "Existing volumes stay. With draining, replicas leave the node. Idempotent.",
	"set-pool": "The policy applies to the next volume. Existing volumes stay as they are. A policy of drover.yaml " +
		"can only be changed there. Idempotent.",
	"create-pool": "The server must be an agent: control has no pools.",
	"create-snapshot": "The snapshot is at least consistent after a crash. The profile says whether " +
		"writers are paused.",
	"delete-snapshot": "The snapshot is named by a prefix of its UUID or, with volume, by its name.",
	"list-volume-io": "The counters are those of the block device of each volume, from /proc/diskstats. They start " +
		"at 0 when the volume is attached. Only volumes of the backends loop and lvm have a block device. " +
		"Others are left out.",
	"list-holders": "The server examines the processes and mounts of its host during the request. The home of the " +
		"volume must be that host. An answer without holders means that nobody uses the volume only if nothing " +
		"is listed as unexamined.",
	"measure-snapshot": "The pool of the volume must be on the host of the server. Pools of the backends loop " +
		"and zfs know the space.",
	"diff-snapshot": "The pool of the volume must be on the host of the server.",
	"doctor":        "The agent examines its host during the request.",
	"facts":         "Control records no small changes, and no change within a minute after the previous one.",
	"fence-node": "The caller confirms that the unreachable node no longer writes. Its volumes can " +
		"then move. Idempotent.",
	"generations": "The answer has the highest generations that control knows. They show which pools " +
		"were restored from an older state.",
	"get-failover": "The answer has the reason if automatic failover is halted.",
	"get-health": "The lists of nodes and replicas and the state of Consul are read during the request. " +
		"The rest of the answer is from memory.",
	"get-operation": "Operations are kept for a day after their end, and scheduled snapshots for an hour.",
	"get-profile":   "The profile is complete: what it inherits is included.",
	"get-snapshot":  "A name identifies a snapshot only within its volume.",
	"get-trust":     "Members refuse the certificates that are listed as revoked.",
	"get-version":   "The answer names the version of the server, and the node if the server is an agent.",
	"get-volume":    "The answer includes the last report of the agent of the volume's home.",
	"guest": "Control records the use before the node mounts the volume, and after the node has " +
		"unmounted it.",
	"heartbeat": "The report has the state of pools and datasets, and the progress of operations. " +
		"It is not recorded.",
	"hold":       "The report is kept in memory. It replaces the previous one.",
	"list-nodes": "With filter, only the nodes whose facts make the expression true, with those facts.",
	"list-operations": "In the order of their UUIDs: operations that have not ended, and those that ended in the " +
		"last day. Scheduled snapshots are listed for an hour.",
	"list-pools": "In the order of nodes and names, with the last report of each. Pools that could " +
		"not be made are included.",
	"list-profiles":  "In the order of their names.",
	"list-snapshots": "Oldest first for one volume. Otherwise in the order of datasets.",
	"list-trash":     "In the order of their UUIDs.",
	"list-volumes": "Volumes whose name was deleted are in the trash. With the header Prefer: return=minimal " +
		"(RFC 7240), an item has only the UUID, names, state, labels, size and status of the volume, the name, " +
		"size, access and replicas of its profile, its node and pool, and the number of snapshots. With Prefer: " +
		"return=minimal, health, it also has the UUIDs of its home and pool, its copies, and why replicas are missing.",
	"plan":                "Nothing is recorded.",
	"preview-collect":     "Nothing is changed. It fails as the removal would.",
	"preview-remove-node": "Nothing is changed. The answer and the error are those that the removal would have.",
	"preview-remove-pool": "Nothing is changed. The answer and the error are those that the removal would have.",
	"protect-volume":      "A protected volume is deleted only with force.",
	"rename-volume": "The former name becomes an alias: it still finds the volume, until the alias is dropped. " +
		"The data, the mounts and the UUID of the volume stay. Idempotent.",
	"drop-alias":    "The alias no longer finds the volume, and its name is free. The data stays.",
	"delete-volume": "With fenced, the data of the volume is put in the trash of that node when it is reachable again.",
	"remove-node": "The certificate of the node is revoked. With force, the node stays recorded until its volumes " +
		"have another home, and the records of data that only it has are removed.",
	"rebuild":       "The answer has the result for each dataset.",
	"rebuild-store": "Every pool of the host must be online, unless skip_offline is set.",
	"recall": "The node that receives the volume calls it. The answer is the operation as it is " +
		"now. Idempotent.",
	"record":             "Operations that end quickly are only committed.",
	"register-node":      "The agent registers when it starts, and when its pools change.",
	"renew":              "The answer says how long the agent counts as alive from now on.",
	"resize-volume":      "Not every backend can make a volume smaller, or change its size while it is mounted.",
	"restore-trash":      "The body can have a new name for the volume.",
	"set-volume-profile": "Refused if the profile excludes a fixed property of the volume, such as its backend.",
	"sync":               "Without rev the answer has everything about the node. Otherwise it has what changed since.",
	"yield":              "The home reports the content that it relinquished, or the users of the volume.",
}

// describeEndpoints gives every endpoint without a description its text.
func describeEndpoints(paths map[string]*huma.PathItem) {
	for _, item := range paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Delete} {
			if op != nil && op.Description == "" {
				op.Description = endpointTexts[op.OperationID]
			}
		}
	}
}
