package restic

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/run"
)

// Program is the program restic of this host. It checks the version once, and again after the file of the program has
// changed. The zero value is ready to use, and safe for concurrent use.
type Program struct {
	Clock clock.Clock // nil: the clock of this machine

	mu     sync.Mutex
	file   os.FileInfo // of the version that was accepted last; nil if there is none
	sparse bool
	locks  seenLocks
}

func (p *Program) clock() clock.Clock {
	if p.Clock == nil {
		return clock.System{}
	}
	return p.Clock
}

// Open is New. It runs restic only if the file of the program has changed since the last Open.
func (p *Program) Open(ctx context.Context, runner run.Runner, options Options) (*Repository, error) {
	path, err := run.LookPath("restic")
	if err != nil {
		return nil, dataset.Errorf(dataset.ErrUnsupported, "backups need restic, which is not installed on this node "+
			"(install Debian's package restic)")
	}
	file, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("read the version of restic: %w", err)
	}
	p.mu.Lock()
	known, sparse := isSame(p.file, file), p.sparse
	p.mu.Unlock()
	if !known {
		if sparse, err = checkVersion(ctx, runner); err != nil {
			return nil, err
		}
		p.mu.Lock()
		p.file, p.sparse = file, sparse
		p.mu.Unlock()
	}
	return &Repository{p, runner, options, sparse}, nil
}

// isSame reports whether two files are the same, and have not changed in between.
func isSame(a, b os.FileInfo) bool {
	return a != nil && os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}

// checkVersion checks that restic has the options that this package uses. sparse reports whether restic restore has the
// option --sparse.
func checkVersion(ctx context.Context, runner run.Runner) (sparse bool, err error) {
	res, err := runner.Run(ctx, run.Command{Name: "restic", Args: []string{"version"}, Timeout: shortTime})
	if err != nil {
		return false, fmt.Errorf("read the version of restic: %w", err)
	}
	found := regexp.MustCompile(`^restic (\d+)\.(\d+)[.\d]*`).FindSubmatch(res.Stdout)
	if found == nil {
		return false, dataset.Errorf(dataset.ErrUnsupported, "the program restic of this node reports no version: %q "+
			"(install Debian's package restic)", dataset.Clip(strings.TrimSpace(string(res.Stdout))))
	}
	major, _ := strconv.Atoi(string(found[1])) // a number that is too large is a later version
	minor, _ := strconv.Atoi(string(found[2]))
	if major == 0 && minor < 14 {
		return false, dataset.Errorf(dataset.ErrUnsupported, "this node has %s, and backups need restic 0.14.0 or "+
			"later (install the package restic of Debian 12 or later)", found[0])
	}
	return major > 0 || minor >= 15, nil
}
