package backup

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/restic"
)

// Records are the recorded repositories. api.Service implements it.
type Records interface {
	Repositories(ctx context.Context) ([]dataset.Repository, error)
	Repository(ctx context.Context, name string) (dataset.Repository, error)
}

// Users are the users of repositories on this host.
type Users interface {
	UsedRepositories() []string // the names of those that scheduled backups use
}

// maxChecks is how many checks of content run at a time. A check can take hours, and needs memory in proportion to the
// repository.
const maxChecks = 2

// Checker opens and checks repositories. Its state is two channels, the version of restic, and what is known of the
// access to each repository. One channel limits how many checks of content run at a time, and the other one how many
// repositories without a record are opened or made. Its methods are safe for concurrent use.
type Checker struct {
	CacheDir string // private folder for restic's cache; restic creates it
	Records  Records
	Programs *host.Programs // that print passwords
	// Clock is nil if this process reports no repositories that cannot be opened. Then RunProbes must not be called.
	Clock clock.Clock
	Users Users // only RunProbes needs it
	// StallLimit is how long restic may make no progress: see restic.Options.
	StallLimit time.Duration
	// Log gets a warning if a backup reads without its limit. If nil, there is no warning.
	Log logrus.FieldLogger

	checks chan struct{} // has an element for each check of content that runs
	opens  chan struct{} // has an element while open opens or makes a repository
	restic restic.Program
	access accessTable
}

// NewChecker returns a Checker. cacheDir is a private folder for restic's cache. The caller can set the other fields
// before the first use.
func NewChecker(cacheDir string, records Records, programs *host.Programs) *Checker {
	return &Checker{
		CacheDir: cacheDir, Records: records, Programs: programs,
		checks: make(chan struct{}, maxChecks), opens: make(chan struct{}, 1),
	}
}

// Check opens the repository that the request names or describes. It makes the repository if the request says so and
// there is none. It checks the content only of a recorded repository. It fails with dataset.ErrNotFound if there is no
// repository, with dataset.ErrForbidden if the password is wrong, and with dataset.ErrCorrupt if data are missing or
// damaged. It fails with dataset.ErrInUse if maxChecks checks of content already run, and with dataset.ErrExists if it
// would make a repository among other files.
func (c *Checker) Check(ctx context.Context, req api.RepositoryCheck) (api.RepositoryState, error) {
	if err := req.Validate(); err != nil {
		return api.RepositoryState{}, err
	}
	if req.New != nil {
		record, err := req.New.Repository().Checked()
		if err != nil {
			return api.RepositoryState{}, err
		}
		return c.open(ctx, record, req.Init)
	}
	record, err := c.Records.Repository(ctx, req.Name)
	if err != nil {
		return api.RepositoryState{}, err
	}
	return c.check(ctx, record, req.ReadDataPercent)
}

// open opens a repository or, if create is set and there is none, makes it. One repository is opened or made at a time,
// so that two requests do not make the same one.
func (c *Checker) open(ctx context.Context, record dataset.Repository, create bool) (api.RepositoryState, error) {
	select {
	case c.opens <- struct{}{}:
		defer func() { <-c.opens }()
	case <-ctx.Done():
		return api.RepositoryState{}, context.Cause(ctx)
	}
	r, err := c.newRepository(ctx, record, nil)
	if err != nil {
		return api.RepositoryState{}, err
	}
	info, err := r.Stat(ctx)
	if create && errors.Is(err, dataset.ErrNotFound) {
		if err := c.checkNew(ctx, record.URL); err != nil {
			return api.RepositoryState{}, fmt.Errorf("repository %s: %w", dataset.Clip(record.URL), err)
		}
		if info, err = r.Init(ctx); err == nil {
			return api.RepositoryState{ID: info.ID, Format: info.Format, Created: true}, nil
		}
		if errors.Is(err, dataset.ErrExists) { // another host made it meanwhile
			info, err = r.Stat(ctx)
		}
	}
	if !create && errors.Is(err, dataset.ErrNotFound) {
		err = fmt.Errorf("%w (mount its disk, or correct the URL)", err)
	}
	if err != nil {
		return api.RepositoryState{}, err
	}
	return api.RepositoryState{ID: info.ID, Format: info.Format}, nil
}

// checkNew fails if no repository must be made at a URL, because one is recorded there under any name, or because the
// directory has other files. A recorded repository that cannot be found is usually on a disk that is not mounted. A new
// one would take its place without its backups.
func (c *Checker) checkNew(ctx context.Context, url string) error {
	list, err := c.Records.Repositories(ctx)
	if err != nil {
		return fmt.Errorf("it is not made, because the recorded repositories cannot be read: %w", err)
	}
	for _, r := range list {
		if strings.TrimRight(r.URL, "/") == strings.TrimRight(url, "/") {
			return dataset.Errorf(dataset.ErrNotFound, "there is no repository, and it is not made again, because it "+
				"is recorded as %s (mount its disk, or use another URL)", r.Name)
		}
	}
	return checkEmpty(url)
}

// checkEmpty fails with dataset.ErrExists if a new repository would be made among other files. restic would do that,
// also in a repository that has lost its file config.
func checkEmpty(url string) error {
	if !filepath.IsAbs(url) {
		return nil
	}
	unreadable := func(err error) error {
		return dataset.Errorf(dataset.ErrInvalid, "its directory cannot be read: %w", err)
	}
	dir, err := os.OpenFile(url, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return unreadable(err)
	}
	defer dir.Close()
	names, err := dir.Readdirnames(2)
	if err != nil && !errors.Is(err, io.EOF) {
		return unreadable(err)
	}
	if slices.ContainsFunc(names, func(name string) bool { return name != "lost+found" }) {
		return dataset.Errorf(dataset.ErrExists, "the directory is not empty, and has no repository (use an empty "+
			"directory; an add that was interrupted can leave one that has no files below data and snapshots)")
	}
	return nil
}

// check checks the structure of a repository, and the given percentage of its data.
func (c *Checker) check(ctx context.Context, record dataset.Repository, percent int) (api.RepositoryState, error) {
	select {
	case c.checks <- struct{}{}:
		defer func() { <-c.checks }()
	default:
		return api.RepositoryState{}, dataset.Errorf(dataset.ErrInUse, "check of repository %s: %d checks run on this "+
			"host already (try again when one has ended)", record.Name, maxChecks)
	}
	r, err := c.Restic(ctx, record)
	if err != nil {
		return api.RepositoryState{}, err
	}
	info, err := r.Stat(ctx)
	if errors.Is(err, dataset.ErrNotFound) {
		err = fmt.Errorf("%w (mount its disk, or add the repository with the right URL under another name)", err)
	}
	if err == nil {
		err = r.Check(ctx, percent)
	}
	if err != nil {
		return api.RepositoryState{}, err
	}
	return api.RepositoryState{ID: info.ID, Format: info.Format}, nil
}

// Restic returns the repository of a record. It does not reach the repository. It checks the record again, although
// control has checked it: a compromised control must not make this host run any program, neither as password program
// nor by a URL that restic or ssh would take for a command. It also checks that this host allows the password program.
// It notes the outcomes of the runs of restic for Findings.
func (c *Checker) Restic(ctx context.Context, record dataset.Repository) (*restic.Repository, error) {
	note := func(problem error) { c.noteAccess(record.Name, problem) }
	r, err := c.newRepository(ctx, record, note)
	if err != nil && ctx.Err() == nil {
		note(err)
	}
	return r, err
}

// newRepository does the work of Restic. It notes nothing: ended, if not nil, is restic.Options.Ended.
func (c *Checker) newRepository(ctx context.Context, record dataset.Repository, ended func(error)) (*restic.Repository,
	error) {
	record, err := record.Checked()
	if err != nil {
		return nil, err
	}
	if program := record.Password.Exec; program != "" {
		if err := c.Programs.Check([]string{program}); err != nil {
			return nil, fmt.Errorf("password of repository %s: %w", record.Name, err)
		}
	}
	return c.restic.Open(ctx, c.Programs, restic.Options{
		URL: record.URL, Password: record.Password, CredentialsFile: record.CredentialsFile, CacheDir: c.CacheDir,
		MaxUpload: int64(record.MaxUpload), MaxRead: int64(record.ReadLimit()), Unlimited: c.warnUnlimited,
		Ended: ended, StallLimit: c.StallLimit,
	})
}

func (c *Checker) warnUnlimited(reason error) {
	if c.Log != nil {
		c.Log.WithError(reason).
			Warn("a backup reads its volume without a limit: its process cannot be observed or stopped")
	}
}

// OpenNamed is Restic for the recorded repository with a name. It fails with dataset.ErrNotFound if there is no record.
func (c *Checker) OpenNamed(ctx context.Context, name string) (*restic.Repository, error) {
	record, err := c.Records.Repository(ctx, name)
	if err != nil {
		return nil, err
	}
	return c.Restic(ctx, record)
}
