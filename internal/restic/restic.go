// Package restic runs restic(1), which stores backups in repositories. It passes the password of a repository through
// standard input, so that neither a list of arguments nor an environment contains it.
//
// Packages agent/backup and cmd/drover/internal/daemon store and read backups with it. Package agent/backup
// checks repositories, and packages cmd/drover/internal/daemon and cmd/drover/internal/nodes open the repositories for
// exports. A [Repository] keeps no state besides its options, and is safe for concurrent use.
//
// File restic.go makes, opens and checks a repository, and runs restic. File program.go checks the version of restic.
// All other commands are in backup.go, and fullid.go finds the ID of a new backup. File locks.go removes the locks of
// this node's processes that were killed, and cache.go bounds restic's cache. File pace.go limits how fast a backup
// reads, and stall.go ends a run that makes no progress. File rest.go passes the credentials of a REST server. File
// errors.go decides the kind of error of a failure.
//
// Each run of restic derives the key of the repository from the password, which takes about half a second of CPU time.
// So the methods avoid runs that only read a little.
package restic

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/keys"
	"github.com/droverhq/drover/internal/run"
)

// Time limits of restic's runs. restic repeats a failed request to a repository up to ten times, and for at most 15
// minutes. Since version 0.17, it repeats the request for 15 minutes.
const (
	shortTime = 2 * time.Minute     // reads a few small files of the repository
	longTime  = 14 * 24 * time.Hour // reads or writes data
	// cleanup is how long restic may take to remove its lock after SIGINT.
	cleanup = 10 * time.Second
)

// Options describe a repository, and how to reach it.
type Options struct {
	// URL is a URL in the form that dataset.ParseRepositoryURL returns. It must not contain a password.
	URL string
	// Password says where the password is. It is read before each run.
	Password dataset.PasswordSource
	// CredentialsFile is the path of a file with credentials: of an object store in the format of AWS, or of a REST
	// server in the format of keys.ReadRESTCredentials. It is empty if the repository needs none.
	CredentialsFile string
	// CacheDir is a private folder for restic's cache, and for the host name in this node's locks. It is created if it
	// does not exist. Without it, no locks are removed.
	CacheDir string
	// MaxUpload limits the data that are sent to the repository, in bytes per second. Zero means no limit.
	MaxUpload int64
	// MaxRead limits what a backup reads, in bytes per second. Zero means no limit. See pacer for what counts.
	MaxRead int64
	// Unlimited, if not nil, is called with the reason if a backup reads without the limit MaxRead, because its process
	// cannot be observed or stopped.
	Unlimited func(reason error)
	// StallLimit is how long a run may make no progress. Zero means 10 minutes. Tests choose less.
	StallLimit time.Duration
	// Ended, if not nil, is called after each run that tells whether this node can open the repository: with nil if it
	// can, and otherwise with the error of the run. It is not called after a run that was cancelled or that failed for
	// another reason, such as a lock.
	Ended func(failed error)
}

// Repository is a repository of backups.
type Repository struct {
	program *Program
	runner  run.Runner
	options Options
	sparse  bool // restic can restore holes: restic 0.15 and later
}

// New returns the repository with the options. It does not access the repository, and does not check if one exists. It
// fails with ErrUnsupported if the host has no restic, or if restic is older than 0.14.
func New(ctx context.Context, runner run.Runner, options Options) (*Repository, error) {
	return new(Program).Open(ctx, runner, options)
}

// URL returns the URL of the repository, without a password.
func (r *Repository) URL() string { return r.options.URL }

// MaxRead returns how many bytes a backup reads at most in a second; 0 means no limit.
func (r *Repository) MaxRead() int64 { return r.options.MaxRead }

// Info describes a repository that exists.
type Info struct {
	ID     string `json:"id"` // restic chooses it when it makes the repository
	Format int    `json:"version"`
}

// Stat opens the repository. It fails with ErrNotFound if there is no repository at the URL, and with ErrForbidden if
// the password is wrong. Stat needs no lock, so it also opens a repository that another run uses alone.
func (r *Repository) Stat(ctx context.Context) (info Info, err error) {
	err = r.json(ctx, command{time: shortTime}, &info, "cat", "config", "--no-lock")
	return info, err
}

// Init makes the repository. It fails with ErrExists if there is one already.
func (r *Repository) Init(ctx context.Context) (Info, error) {
	if filepath.IsAbs(r.options.URL) {
		there, err := r.directory(ctx) // fails if its server does not answer
		there.close()
		if err != nil && !errors.Is(err, dataset.ErrNotFound) {
			return Info{}, err
		}
		if err := os.MkdirAll(r.options.URL, 0o700); err != nil {
			return Info{}, r.failed(err)
		}
	}
	if _, err := r.run(ctx, command{time: shortTime}, "init"); err != nil {
		return Info{}, err
	}
	return r.Stat(ctx)
}

// Check reads the structure of the repository, and the given percentage of its data, chosen at random. If data are
// missing or damaged, it fails with ErrCorrupt, and its error names the files of the repository. Meanwhile, no other
// process can use the repository.
func (r *Repository) Check(ctx context.Context, percent int) error {
	args := []string{"check"}
	if percent > 0 {
		args = append(args, fmt.Sprintf("--read-data-subset=%d%%", min(percent, 100)))
	}
	_, err := r.run(ctx, command{time: longTime, idle: true}, args...)
	return err
}

// command is one run of restic.
type command struct {
	time   time.Duration
	dir    string
	stdout io.Writer // nil discards the output
	idle   bool      // other processes come first, on the CPUs and the disks
	// progress makes restic write its progress every second.
	progress bool
	// paced makes the run read at most Options.MaxRead bytes in a second.
	paced bool
	// strict makes the run fail if restic ignored a backup that it could not read.
	strict bool
}

// json runs restic, and decodes its output. If the run fails, json returns the error of the run, and still decodes the
// output if it is valid.
func (r *Repository) json(ctx context.Context, c command, into any, args ...string) error {
	out := run.NewHead(maxOutput)
	c.stdout = out
	if _, err := r.run(ctx, c, append(args, "--json")...); err != nil {
		_ = json.Unmarshal(out.Bytes(), into) // a strict run has listed the backups that it could read
		return err
	}
	if out.Overflowed() {
		return r.errorf(dataset.ErrInternal, "restic %s wrote more than %d MiB", args[0], maxOutput>>20)
	}
	return r.decode(out.Bytes(), into)
}

// maxOutput bounds the output that is kept in memory. A backup in a list needs about 600 bytes: 400,000 can be listed.
const maxOutput = 256 << 20

// run runs restic. If a process that has ended left its lock in the repository, run removes the lock, and runs restic
// again: see removeEndedLocks. If restic itself crashes, run removes the lock that it left.
func (r *Repository) run(ctx context.Context, c command, args ...string) (res run.Result, err error) {
	defer func() { reportAccess(ctx, r.options.Ended, err) }()
	res, err = r.runOnce(ctx, c, args...)
	if err != nil && crashed(res.Stderr) {
		later, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanup)
		defer cancel()
		// If this fails, the next run of this node that finds the lock removes it. What ended this run is reported.
		_, _ = r.removeEndedLocks(later)
		return res, err
	}
	if !errors.Is(err, dataset.ErrInUse) {
		return res, err
	}
	if ok, _ := r.removeEndedLocks(ctx); !ok {
		return res, err // also if the locks cannot be read: nobody knows then whose they are
	}
	return r.runOnce(ctx, c, args...)
}

// cannotLock is in restic's messages if it cannot write its lock, or if somebody else has one.
const cannotLock = "unable to create lock in backend"

// read is run for a command that only reads. If restic cannot write its lock, for example because the repository is
// full, the command runs without one. Then a prune of another host can make it fail, but not return wrong data.
func (r *Repository) read(ctx context.Context, c command, args ...string) (run.Result, error) {
	res, err := r.run(ctx, c, args...)
	if err == nil || ctx.Err() != nil || errors.Is(err, dataset.ErrInUse) ||
		!strings.Contains(string(res.Stderr), cannotLock) {
		return res, err
	}
	return r.run(ctx, c, slices.Insert(slices.Clone(args), 1, "--no-lock")...)
}

// reportAccess calls ended, which is Options.Ended, if the result of a run tells whether the repository can be opened.
func reportAccess(ctx context.Context, ended func(error), err error) {
	var failed *accessError
	if ended != nil && (err == nil || ctx.Err() == nil && errors.As(err, &failed)) {
		ended(err)
	}
}

// crashed reports whether restic ended with a Go trace. Version 0.14 can do that after SIGINT, in tree_saver.go of its
// archiver. It then leaves its lock, which no other node can remove for half an hour.
func crashed(stderr []byte) bool {
	text := "\n" + string(stderr)
	return (strings.Contains(text, "\npanic: ") || strings.Contains(text, "\nfatal error: ")) &&
		strings.Contains(text, "\ngoroutine ")
}

// background is the start of a command that runs behind other processes. With a nice value of 19, a process still gets
// about 1.5 % of what one with a value of 0 gets of a busy CPU, so each backup ends. The kernel compares nice values
// only within a control group (sched(7)).
var background = []string{"nice", "-n", "19", "ionice", "-c", "3", "-t"}

func (r *Repository) runOnce(ctx context.Context, c command, args ...string) (run.Result, error) {
	password, err := keys.ReadPassword(ctx, r.runner, r.options.Password)
	if err != nil {
		return run.Result{}, &accessError{r.failed(err)}
	}
	env, err := r.env(c)
	if err != nil {
		return run.Result{}, &accessError{r.failed(err)}
	}
	c.stdout = cmp.Or(c.stdout, io.Discard) // a check or prune can write more than the runner keeps
	at, err := r.place(ctx)
	if err != nil {
		return run.Result{}, &accessError{err}
	}
	defer at.close()
	host, held, err := r.options.share(ctx, args)
	if err != nil {
		return run.Result{}, r.failed(err)
	}
	defer func() { _ = held.Close() }() // an error if it is nil, which does not matter
	name, unlock, args := "restic", args[0] == "unlock", slices.Concat(at.args, r.global(), args)
	if c.idle {
		name, args = background[0], slices.Concat(background[1:], []string{name}, args)
	}
	running, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	refused := &refusal{stop: func() { stop(nil) }}
	var stderr io.Writer = io.Discard
	if r.options.isREST() {
		stderr = &lines{each: refused.look}
	}
	var output atomic.Int64
	watch := r.options.watchCache(func() { stop(nil) })
	res, err := r.runner.Run(running, run.Command{
		Name:      name,
		Args:      args,
		Timeout:   c.time,
		Stdin:     bytes.NewReader(append(password.Reveal(), '\n')),
		Files:     at.files,
		Env:       env,
		Stdout:    counter{c.stdout, &output},
		Stderr:    counter{stderr, &output},
		Dir:       c.dir,
		Hostname:  host,
		OwnPIDs:   unlock,
		Interrupt: cleanup,
		OOMScore:  "1000", // a repository decides how much memory restic takes
		// If restic outlived this process, it could still store a backup after a later run has listed all of them.
		KillWithParent: true,
		Attend:         r.attend(c, &output, func() { stop(errStalled) }),
	})
	if large := watch.end(); large != nil && ctx.Err() == nil {
		return res, r.failed(large)
	}
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(running), errStalled) {
		return res, r.stalled()
	}
	if text := refused.found(); text != "" && ctx.Err() == nil {
		err = &run.Error{Cmd: name, Args: args, ExitCode: 1, Stderr: text}
	}
	if err != nil {
		return res, r.classify(ctx, err, string(password.Reveal()), at.secret)
	}
	if text := ignored(res.Stderr); c.strict && text != "" {
		return res, r.classify(ctx, &run.Error{Cmd: name, Args: args, Stderr: text},
			string(password.Reveal()), at.secret)
	}
	return res, nil
}

// attend returns the function that limits how fast a command reads, and calls stalled if the command has stalled.
func (r *Repository) attend(c command, output *atomic.Int64, stalled func()) func(context.Context, *os.Process) {
	return func(ctx context.Context, p *os.Process) {
		defer context.AfterFunc(ctx, func() {
			if c.paced && errors.Is(context.Cause(ctx), dataset.ErrNoSpace) {
				_ = p.Kill() // the clean-up takes too long: the clone that it reads takes the space of users meanwhile
			}
		})()
		var pacing sync.WaitGroup
		if c.paced && r.options.MaxRead > 0 {
			pacing.Go(func() { r.options.pace(ctx, p) })
		}
		r.options.watchStall(ctx, p, output, stalled)
		pacing.Wait()
	}
}

func (r *Repository) env(c command) ([]string, error) {
	env := []string{
		"RESTIC_PASSWORD=", "RESTIC_PASSWORD_COMMAND=", "RESTIC_PASSWORD_FILE=",
		"RESTIC_REPOSITORY=", "RESTIC_REPOSITORY_FILE=", "RESTIC_KEY_HINT=",
		"TZ=UTC", // the zone of the times in arguments
	}
	if dir := r.options.cacheDir(); dir != "" {
		// Any user can fill /tmp. restic removes the names of its temporary files as soon as it has created them.
		env = append(env, "TMPDIR="+dir)
	}
	if c.progress {
		env = append(env, "RESTIC_PROGRESS_FPS=1")
	} else {
		env = append(env, "RESTIC_PROGRESS_FPS=")
	}
	if r.options.CredentialsFile != "" && !r.options.isREST() {
		if err := keys.CheckCredentialsFile(r.options.CredentialsFile); err != nil {
			return nil, err
		}
		env = append(env, "AWS_SHARED_CREDENTIALS_FILE="+r.options.CredentialsFile,
			"AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=", "AWS_SESSION_TOKEN=")
	}
	return env, nil
}

// global returns the options that every command of restic gets, besides those of its place.
func (r *Repository) global() []string {
	// The password is read from the standard input.
	args := []string{"--password-file=/dev/stdin"}
	if dir := r.options.cacheDir(); dir != "" {
		args = append(args, "--cache-dir="+dir, "--cleanup-cache")
	}
	if r.options.MaxUpload > 0 {
		args = append(args, fmt.Sprintf("--limit-upload=%d", max(1, r.options.MaxUpload>>10))) // KiB/s
	}
	return args
}
