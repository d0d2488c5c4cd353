package control

import (
	"path/filepath"
	"strings"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// maxPath is PATH_MAX of linux/limits.h.
const maxPath = 4096

// checkRepository fails with dataset.ErrInvalid if a request names a repository, a backup or a version, and a request
// of its kind uses none. It also fails if an import names only one of them, or reads a folder as well, or if a request
// names a check program that it cannot have.
func checkRepository(req api.Request) error {
	reads, writes := kinds[req.Kind].reads, kinds[req.Kind].writes
	if req.Repository != "" && !reads && !writes {
		return dataset.Errorf(dataset.ErrInvalid,
			"unexpected repository: it applies only to backup, push, import and verify, not to %.40s (omit it)",
			req.Kind)
	}
	if req.Version != nil && (req.Kind != dataset.OpImport || req.Backup == "") {
		return dataset.Errorf(dataset.ErrInvalid,
			"unexpected version: it applies only to the import of a backup, not to %.40s (omit it)", req.Kind)
	}
	if req.Backup != "" && !reads {
		return dataset.Errorf(dataset.ErrInvalid,
			"unexpected backup: it applies only to import and verify, not to %.40s (omit it)", req.Kind)
	}
	if req.Check != "" {
		if req.Kind != dataset.OpVerify {
			return dataset.Errorf(dataset.ErrInvalid,
				"unexpected check program: it applies only to verify, not to %.40s (omit it)", req.Kind)
		}
		if err := dataset.CheckCheckProgram(req.Check); err != nil {
			return err
		}
	}
	switch {
	case !reads || req.Repository == "" && req.Backup == "":
		return nil
	case req.Repository == "" || req.Backup == "":
		return dataset.Errorf(dataset.ErrInvalid,
			"%s of volume %q from a backup: expected both repository and backup", req.Kind, dataset.Clip(req.Volume))
	case req.Path != "":
		return dataset.Errorf(dataset.ErrInvalid, "import of volume %q: path and backup exclude each other",
			dataset.Clip(req.Volume))
	}
	return dataset.CheckBackupID(req.Backup)
}

// checkPath fails with dataset.ErrInvalid if a request names a path that an agent cannot use: a relative path, which
// would depend on the working directory of the agent, a path that is not clean, or one that is too long. It also
// fails if a request of this kind cannot have a path, because it reads nothing from a host.
func checkPath(req api.Request) error {
	if req.Live && (req.Kind != dataset.OpImport || req.Path == "") {
		return dataset.Errorf(dataset.ErrInvalid,
			"unexpected option live: it applies only to the import of a folder (omit it)")
	}
	if req.Path == "" {
		return nil
	}
	what := kinds[req.Kind].path
	switch {
	case what == "":
		return dataset.Errorf(dataset.ErrInvalid,
			"unexpected path: it applies only to import and rekey, not to %.40s (omit it)", req.Kind)
	case len(req.Path) > maxPath:
		return dataset.Errorf(dataset.ErrInvalid, "%s: a path of %d bytes is too long (%d at most)", what,
			len(req.Path), maxPath)
	case !filepath.IsAbs(req.Path):
		return dataset.Errorf(dataset.ErrInvalid,
			"%s %q: expected an absolute path on the volume's host", what, dataset.Clip(req.Path))
	case strings.ContainsRune(req.Path, 0):
		return dataset.Errorf(dataset.ErrInvalid, "%s %q: the path contains a zero byte", what, dataset.Clip(req.Path))
	case filepath.Clean(req.Path) != req.Path:
		return dataset.Errorf(dataset.ErrInvalid, "%s %q: the path is not clean (use %s)", what,
			dataset.Clip(req.Path), dataset.Clip(filepath.Clean(req.Path)))
	}
	return nil
}
