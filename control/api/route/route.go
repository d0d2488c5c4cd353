// Package route is the table of the endpoints. Packages client and server use it, so that both agree on methods and
// paths. It has no state. A new endpoint gets a row here, a rule in control/api/server (access.go), a handler, a text
// in control/api/openapi (endpoints.go) unless the handler describes it, and a method of the client.
package route

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/droverhq/drover/dataset"
)

// Route is one endpoint of the API.
type Route struct {
	ID     string // operation ID in the OpenAPI document, the access table and the audit log
	Method string
	Path   string // with {parameters}
}

// Volumes.
var (
	ListVolumes      = Route{"list-volumes", http.MethodGet, "/v1/volumes"}
	GetVolume        = Route{"get-volume", http.MethodGet, "/v1/volumes/{volume}"}
	CreateVolume     = Route{"create-volume", http.MethodPost, "/v1/volumes"}
	DeleteVolume     = Route{"delete-volume", http.MethodDelete, "/v1/volumes/{volume}"}
	ResizeVolume     = Route{"resize-volume", http.MethodPost, "/v1/volumes/{volume}/resize"}
	RekeyVolume      = Route{"rekey-volume", http.MethodPost, "/v1/volumes/{volume}/rekey"}
	RewriteVolume    = Route{"rewrite-volume", http.MethodPost, "/v1/volumes/{volume}/rewrite"}
	VerifyBackup     = Route{"verify-backup", http.MethodPost, "/v1/volumes/{volume}/verify"}
	BackUpVolume     = Route{"back-up-volume", http.MethodPost, "/v1/volumes/{volume}/backups"}
	PushVolume       = Route{"push-volume", http.MethodPost, "/v1/volumes/{volume}/pushes"}
	SetVolumeProfile = Route{"set-volume-profile", http.MethodPost, "/v1/volumes/{volume}/set-profile"}
	RenameVolume     = Route{"rename-volume", http.MethodPost, "/v1/volumes/{volume}/rename"}
	DropAlias        = Route{"drop-alias", http.MethodDelete, "/v1/volumes/{volume}/aliases/{alias}"}
	ProtectVolume    = Route{"protect-volume", http.MethodPost, "/v1/volumes/{volume}/protect"}
	ImportVolume     = Route{"import-volume", http.MethodPost, "/v1/volumes/{volume}/import"}
	ExportVolume     = Route{"export-volume", http.MethodGet, "/v1/volumes/{volume}/export"}
	UploadVolume     = Route{"upload-volume", http.MethodPost, "/v1/volumes/{volume}/upload"}
)

// Snapshots and clones.
var (
	ListSnapshots   = Route{"list-snapshots", http.MethodGet, "/v1/snapshots"}
	GetSnapshot     = Route{"get-snapshot", http.MethodGet, "/v1/snapshots/{snapshot}"}
	CreateSnapshot  = Route{"create-snapshot", http.MethodPost, "/v1/volumes/{volume}/snapshots"}
	DeleteSnapshot  = Route{"delete-snapshot", http.MethodDelete, "/v1/snapshots/{snapshot}"}
	RestoreSnapshot = Route{"restore-snapshot", http.MethodPost, "/v1/snapshots/{snapshot}/restore"}
	MeasureSnapshot = Route{"measure-snapshot", http.MethodGet, "/v1/snapshots/{snapshot}/space"}
	DiffSnapshot    = Route{"diff-snapshot", http.MethodGet, "/v1/snapshots/{snapshot}/diff"}
	CreateClone     = Route{"create-clone", http.MethodPost, "/v1/clones"}
)

// The trash.
var (
	ListTrash    = Route{"list-trash", http.MethodGet, "/v1/trash"}
	RestoreTrash = Route{"restore-trash", http.MethodPost, "/v1/trash/{dataset}/restore"}
	PurgeTrash   = Route{"purge-trash", http.MethodDelete, "/v1/trash/{dataset}"}
	EmptyTrash   = Route{"empty-trash", http.MethodDelete, "/v1/trash"}
)

// Profiles, operations and events.
var (
	ListProfiles    = Route{"list-profiles", http.MethodGet, "/v1/profiles"}
	GetProfile      = Route{"get-profile", http.MethodGet, "/v1/profiles/{profile}"}
	ListOperations  = Route{"list-operations", http.MethodGet, "/v1/operations"}
	SubmitOperation = Route{"submit-operation", http.MethodPost, "/v1/operations"}
	GetOperation    = Route{"get-operation", http.MethodGet, "/v1/operations/{operation}"}
	CancelOperation = Route{"cancel-operation", http.MethodPost, "/v1/operations/{operation}/cancel"}
	GetVersion      = Route{"get-version", http.MethodGet, "/v1/version"}
	GetEvents       = Route{"get-events", http.MethodGet, "/v1/events"}
)

// Repositories for backups.
var (
	ListRepositories = Route{"list-repositories", http.MethodGet, "/v1/repositories"}
	GetRepository    = Route{"get-repository", http.MethodGet, "/v1/repositories/{repository}"}
	AddRepository    = Route{"add-repository", http.MethodPost, "/v1/repositories"}
	RemoveRepository = Route{"remove-repository", http.MethodDelete, "/v1/repositories/{repository}"}
)

// The host of the server: its pools and its store.
var (
	BackupStore = Route{"backup-store", http.MethodGet, "/v1/store/backup"}
	ListPools   = Route{"list-pools", http.MethodGet, "/v1/pools"}
	CreatePool  = Route{"create-pool", http.MethodPost, "/v1/pools"}
	AdoptPool   = Route{"adopt-pool", http.MethodPost, "/v1/adoptions"}
	AcceptPool  = Route{"accept-pool", http.MethodPost, "/v1/pools/{pool}/accept"}
	RemovePool  = Route{"remove-pool", http.MethodDelete, "/v1/pools/{pool}"}
	SetPool     = Route{"set-pool", http.MethodPost, "/v1/pools/{pool}/policy"}
	// The previews have routes of their own: a parameter that gets lost must not remove a pool.
	PreviewRemovePool = Route{"preview-remove-pool", http.MethodGet, "/v1/pools/{pool}/removal"}
	PreviewCollect    = Route{"preview-collect", http.MethodGet, "/v1/doctor/{dataset}/removal"}
	Doctor            = Route{"doctor", http.MethodGet, "/v1/doctor"}
	ListHolders       = Route{"list-holders", http.MethodGet, "/v1/volumes/{volume}/holders"}
	ListVolumeIO      = Route{"list-volume-io", http.MethodGet, "/v1/volume-io"}
	Collect           = Route{"collect", http.MethodDelete, "/v1/doctor/{dataset}"}
	RebuildStore      = Route{"rebuild-store", http.MethodPost, "/v1/store/rebuild"}
	CheckRepository   = Route{"check-repository", http.MethodPost, "/v1/host/repositories/check"}
	ListBackups       = Route{"list-backups", http.MethodGet, "/v1/host/repositories/{repository}/backups"}
	ListVersions      = Route{"list-versions", http.MethodGet, "/v1/host/repositories/{repository}/versions"}
	GetBackup         = Route{"get-backup", http.MethodGet, "/v1/host/repositories/{repository}/backups/{backup}"}
	RemoveBackup      = Route{"remove-backup", http.MethodDelete, "/v1/host/repositories/{repository}/backups/{backup}"}
	PruneRepository   = Route{"prune-repository", http.MethodPost, "/v1/host/repositories/{repository}/prune"}
	RecoverStore      = Route{"recover-store", http.MethodPost, "/v1/store/recover"}
)

// Nodes and members of the cluster.
var (
	ListNodes         = Route{"list-nodes", http.MethodGet, "/v1/nodes"}
	CordonNode        = Route{"cordon-node", http.MethodPost, "/v1/nodes/{node}/cordon"}
	LabelNode         = Route{"label-node", http.MethodPost, "/v1/nodes/{node}/labels"}
	FenceNode         = Route{"fence-node", http.MethodPost, "/v1/nodes/{node}/fence"}
	GetFailover       = Route{"get-failover", http.MethodGet, "/v1/failover"}
	GetHealth         = Route{"get-health", http.MethodGet, "/v1/health"}
	MakeToken         = Route{"make-token", http.MethodPost, "/v1/tokens"}
	GetTrust          = Route{"get-trust", http.MethodGet, "/v1/trust"}
	RemoveNode        = Route{"remove-node", http.MethodDelete, "/v1/nodes/{node}"}
	PreviewRemoveNode = Route{"preview-remove-node", http.MethodGet, "/v1/nodes/{node}/removal"}
	RevokeOperator    = Route{"revoke-operator", http.MethodDelete, "/v1/operators/{operator}"}
	Join              = Route{"join", http.MethodPost, "/v1/join"}
)

// Endpoints that agents call, each for its own node.
var (
	RegisterNode   = Route{"register-node", http.MethodPost, "/v1/nodes/{node}/register"}
	Renew          = Route{"renew", http.MethodPost, "/v1/nodes/{node}/renew"}
	Plan           = Route{"plan", http.MethodPost, "/v1/nodes/{node}/plan"}
	Commit         = Route{"commit", http.MethodPost, "/v1/nodes/{node}/commit"}
	Record         = Route{"record", http.MethodPost, "/v1/nodes/{node}/record"}
	Recall         = Route{"recall", http.MethodPost, "/v1/nodes/{node}/recall"}
	Yield          = Route{"yield", http.MethodPost, "/v1/nodes/{node}/yield"}
	ReportCopy     = Route{"copied", http.MethodPost, "/v1/nodes/{node}/copied"}
	SharedMount    = Route{"guest", http.MethodPost, "/v1/nodes/{node}/guest"} // ReportSharedMount
	Sync           = Route{"sync", http.MethodGet, "/v1/nodes/{node}/sync"}
	Heartbeat      = Route{"heartbeat", http.MethodPost, "/v1/nodes/{node}/heartbeat"}
	Facts          = Route{"facts", http.MethodPost, "/v1/nodes/{node}/facts"}
	Generations    = Route{"generations", http.MethodPost, "/v1/nodes/{node}/generations"}
	Rebuild        = Route{"rebuild", http.MethodPost, "/v1/nodes/{node}/rebuild"}
	Certify        = Route{"certify", http.MethodPost, "/v1/nodes/{node}/certificate"}
	ReportHoldings = Route{"hold", http.MethodPost, "/v1/nodes/{node}/hold"}
)

// Fill returns the path with its parameters replaced by names, in their order. The names are escaped. It fails with
// ErrInvalid for a name that cannot be part of a path. No object has such a name.
func (r Route) Fill(names ...string) (string, error) {
	var path strings.Builder
	rest := r.Path
	for _, name := range names {
		before, after, ok := cutParameter(rest)
		if !ok {
			return "", fmt.Errorf("route %s has fewer than %d parameters", r.ID, len(names))
		}
		if name == "" || name == "." || name == ".." {
			return "", dataset.Errorf(dataset.ErrInvalid,
				"bad name %q: want a name, or 4 or more characters of a UUID", name)
		}
		path.WriteString(before + url.PathEscape(name))
		rest = after
	}
	if _, _, more := cutParameter(rest); more {
		return "", fmt.Errorf("route %s has more than %d parameters", r.ID, len(names))
	}
	return path.String() + rest, nil
}

// cutParameter returns what is before and after the first {parameter} of a path.
func cutParameter(path string) (before, after string, found bool) {
	before, after, found = strings.Cut(path, "{")
	if found {
		_, after, _ = strings.Cut(after, "}")
	}
	return before, after, found
}
