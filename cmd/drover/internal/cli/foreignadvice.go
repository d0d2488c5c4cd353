package cli

// foreignAdvice is the part of advice for the words of other storage systems: LVM, ZFS, Ceph, Longhorn and Portworx.
var foreignAdvice = map[string]string{
	"volume mv":              "use drover volume move NAME NODE for another node, or drover volume rename NAME NEW",
	"volume fsck":            volumeProblem,
	"volume check":           volumeProblem,
	"volume repair":          volumeProblem,
	"volume verify":          verifyVolume,
	"volume scrub":           verifyVolume,
	"volume chown":           ownerInProfile,
	"volume chmod":           ownerInProfile,
	"volume owner":           ownerInProfile,
	"volume promote":         "if its node is lost, use drover volume move NAME NODE; its --help says how",
	"volume failover":        "if its node is lost, use drover volume move NAME NODE; its --help says how",
	"failover":               "if the node of a volume is lost, use drover volume move NAME NODE; its --help says how",
	"volume switchover":      "use drover volume move NAME NODE",
	"switchover":             "use drover volume move NAME NODE",
	"volume detach":          unmounted,
	"volume unpublish":       unmounted,
	"volume release":         unmounted,
	"volume resync":          replicasUpdate,
	"volume sync":            replicasUpdate,
	"resync":                 replicasUpdate,
	"sync":                   replicasUpdate,
	"volume replica":         shownReplicas,
	"rebalance":              noRebalance,
	"volume rebalance":       noRebalance,
	"pool rebalance":         noRebalance,
	"node rebalance":         noRebalance,
	"balance":                noRebalance,
	"trim":                   trimmed,
	"volume trim":            trimmed,
	"pool trim":              trimmed,
	"fstrim":                 trimmed,
	"volume policy":          "use drover volume inspect NAME to see it, or drover volume set-profile NAME PROFILE",
	"volume key":             "use drover volume rekey NAME for another key",
	"volume rotate-key":      "use drover volume rekey NAME for another key",
	"key":                    "use drover volume rekey NAME for another key",
	"volume force-unlock":    "drover volume inspect NAME shows who uses the volume, and how to free it",
	"volume lease":           "drover volume inspect NAME shows the node and the lease of a volume",
	"lease":                  "drover volume inspect NAME shows the node and the lease of a volume",
	"volume recover":         recoverVolume,
	"conflict":               "use drover volume superseded ls",
	"conflicts":              "use drover volume superseded ls",
	"holds":                  "use drover volume inspect NAME for the users of a volume, or drover snapshot ls VOLUME",
	"find":                   "use drover volume ls --filter name='*TEXT*', or drover snapshot ls",
	"context":                chooseServer,
	"contexts":               chooseServer,
	"scale":                  "use drover volume resize NAME SIZE; " + replicasInProfile,
	"whoami":                 whoIsMeant,
	"volume expire":          trashTime,
	"trash expire":           trashTime,
	"trash set":              trashTime,
	"volume retention":       keepInProfile,
	"retention":              keepInProfile,
	"snapshot retention":     keepInProfile,
	"snapshot policy":        keepInProfile,
	"snapshot keep":          keepInProfile,
	"snapshot protect":       keepInProfile,
	"snapshot send":          "use drover volume export VOLUME --snapshot NAME -o FILE",
	"snapshot download":      "use drover volume export VOLUME --snapshot NAME -o FILE",
	"snapshot copy":          "use drover clone VOLUME@SNAPSHOT NEW",
	"pool scan":              "use drover pool adopt PATH for a pool of another host; others need no scan",
	"pool rescan":            "use drover pool adopt PATH for a pool of another host; others need no scan",
	"pool offline":           "a pool is offline while its disk is absent; drover pool inspect NAME shows why",
	"pool online":            "a pool is online again when its disk is; drover pool inspect NAME shows why it is not",
	"pool replace":           replaceDisk,
	"replace":                replaceDisk,
	"audit":                  auditLog,
	"audit-log":              auditLog,
	"qos":                    speedInProfile,
	"iops":                   speedInProfile,
	"leader":                 "use drover status: it names each control replica and Consul server with a problem",
	"node failover":          lostNode,
	"node lost":              lostNode,
	"node join-token":        joinNode,
	"node invite":            joinNode,
	"ca show":                certificates,
	"ca inspect":             certificates,
	"ca status":              certificates,
	"ca info":                certificates,
	"ca check":               certificates,
	"ca expiry":              certificates,
	"certificate":            certificates,
	"certificates":           certificates,
	"version --all":          "use drover node ls for the versions of all nodes",
	"version -a":             "use drover node ls for the versions of all nodes",
	"doctor --fix":           "doctor changes nothing; each finding has its next command",
	"doctor --repair":        "doctor changes nothing; each finding has its next command",
	"pool move":              emptyPool,
	"join":                   joinNode,
	"token":                  joinNode,
	"node enter-maintenance": maintenance,
	"node disable":           "use drover node cordon NAME",
	"node enable":            "use drover node uncordon NAME",
	"node ps":                "use drover volume ls --filter node=NAME",
	"node volumes":           "use drover volume ls --filter node=NAME",
	"pool volumes":           "use drover volume ls --filter pool=NAME",
	"pool ps":                "use drover volume ls --filter pool=NAME",
	"cluster":                "use drover status, drover node ls, or drover node token --name NAME to add a host",
	"store check":            "use drover doctor, or drover status",
	"store verify":           "use drover doctor, or drover status",
	"store status":           "use drover status",
	"cert":                   certificates,
	"certs":                  certificates,
	"ca renew":               "nodes renew their certificates; use drover ca rotate for a new authority",
	"user":                   accessByCertificate,
	"role":                   accessByCertificate,
	"login":                  accessByCertificate,
	"operation abort":        "use drover operation cancel ID",
	"abort":                  "use drover operation cancel ID",
	"kill":                   "use drover operation cancel ID",
	"operation prune":        "finished operations are removed automatically; drover operation ls lists them",
	"lvs":                    "use drover volume ls",
	"vgs":                    "use drover pool ls",
	"zfs":                    "use drover volume ls",
	"zpool":                  "use drover pool ls",
	"event":                  "use drover events",
	"backends":               "use drover pool ls for the pools, or drover backend verify POOL",
	"backend ls":             "use drover pool ls for the pools, or drover backend verify POOL",
	"volume locate":          "use drover volume inspect NAME",
	"volume nodes":           "use drover volume inspect NAME",
	"copies":                 "use drover volume inspect NAME",
	"volume copies":          "use drover volume inspect NAME",
	"volume discard":         "use drover volume superseded ls, or drover volume rm --dry-run NAME",
	"discard":                "use drover volume superseded ls, or drover volume rm --dry-run NAME",
}

// chooseServer is the advice for a user who wants to use another server.
const chooseServer = "--api ADDRESS or DROVER_API names the server, and drover version shows which one responds"

// whoIsMeant is the advice for a user who wants to know the name under which the server knows the caller.
const whoIsMeant = "the server knows you as your user on this host or, over https, as the person in the certificate " +
	"DROVER_CERT; drover events shows who made each change"

// replaceDisk is the advice for a user whose disk failed.
const replaceDisk = "drover status has the next command for a pool without its disk, and drover pool create makes a " +
	"pool on the new one; a volume leaves a pool by a copy: drover volume export NAME | drover volume import " +
	"NEW@PROFILE -o pool=POOL --from -"

// auditLog is the advice for a user who looks for what somebody did.
const auditLog = "each change is in audit.log, in the root folder of the service: grep NAME /var/lib/drover/audit.log"

// lostNode is the advice for a user whose node is gone.
const lostNode = "if the node is lost, use drover node drain NAME; its --help says how"

// certificates is the advice for a user who looks for certificates.
const certificates = "drover status names certificates that expire soon; nodes renew theirs; drover ca issue makes " +
	"one for a person, and drover ca rotate replaces the authority"

// ownerInProfile is the advice for a user who wants another owner of a volume.
const ownerInProfile = "the owner belongs to a profile of a new volume, in profiles.yaml: owner; a container can " +
	"change the owner of an existing one"

// replicasUpdate is the advice for a user who wants replicas to be brought up to date.
const replicasUpdate = "replicas are updated automatically; drover volume inspect NAME shows how old they are"

// noRebalance is the advice for a user who wants volumes to be spread again.
const noRebalance = "Drover does not move volumes by itself: use drover volume move NAME NODE"

// trimmed is the advice for a user who wants unused blocks to be returned to a pool.
const trimmed = "use drover volume rewrite NAME for a smaller copy; drover pool inspect NAME shows the space"

// trashTime is the advice for a user who wants to change how long the trash keeps a volume.
const trashTime = "the time in the trash belongs to a profile, in profiles.yaml: on_delete; drover trash purge " +
	"--dry-run NAME shows what a purge destroys"

// keepInProfile is the advice for a user who wants to keep snapshots.
const keepInProfile = "the profile says which scheduled snapshots stay: snapshots.keep in profiles.yaml; those of " +
	"drover snapshot create VOLUME NAME stay until they are removed"

// accessByCertificate is the advice for a user who looks for accounts.
const accessByCertificate = "access is by certificates: drover ca issue makes one for a person, with a role"

// verifyVolume is the advice for a user who wants to check the data of a volume.
const verifyVolume = "use drover volume inspect NAME for its replicas, or drover backend verify POOL for the storage"

// volumeProblem is the advice for a user who wants to repair a volume.
const volumeProblem = "use drover volume inspect NAME for its problem, or drover doctor for the host"

// unmounted is the advice for a user who wants to free a volume.
const unmounted = "a volume is unmounted when its containers stop, and drover volume inspect NAME lists them"

// shownReplicas is the advice for a user who looks for replicas.
const shownReplicas = "replicas belong to a profile, in profiles.yaml; drover replica ls NAME shows those of a " +
	"volume"

// recoverVolume is the advice for a user who wants lost data back.
const recoverVolume = "use drover trash restore NAME for a deleted volume, drover snapshot restore VOLUME SNAPSHOT " +
	"for an older state, drover recover --from REPOSITORY for a volume in a backup, or drover volume superseded ls " +
	"for the data of a lost node"
