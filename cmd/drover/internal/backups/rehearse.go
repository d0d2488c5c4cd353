package backups

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// maxRehearsals is the largest --parallel of a rehearsal: a host runs as many verifications of a repository at a time
// (operation.maxVerifications). With more, the seconds of a volume would include its wait for others.
const maxRehearsals = 2

// rehearsal is the JSON output of drover recover --rehearse.
type rehearsal struct {
	Repository string            `json:"repository"`
	Began      time.Time         `json:"began"`
	Seconds    float64           `json:"seconds"` // from the beginning of the first restore to the end of the last one
	Parallel   uint              `json:"parallel"`
	Bytes      int64             `json:"bytes"`    // of all verified volumes
	Verified   int               `json:"verified"` // number of volumes
	Volumes    []rehearsedVolume `json:"volumes"`
}

// rehearsedVolume is a volume of a rehearsal.
type rehearsedVolume struct {
	Volume   string    `json:"volume"`
	Backup   string    `json:"backup"`
	Taken    time.Time `json:"taken"` // the recovery point: later data would be lost
	Age      float64   `json:"age_seconds"`
	Bytes    int64     `json:"bytes"` // size of the files; 0 if the backup was not restored
	Seconds  float64   `json:"seconds"`
	Verified bool      `json:"verified"` // all files were restored, and equal those of the backup
	// Problem is why the backup was not verified.
	Problem *dataset.Problem `json:"problem,omitempty"`
}

// rehearse restores the backups of the candidates into temporary volumes, and prints a report. It fails if a backup is
// not verified. After an interrupt, no further restore begins, and those in progress continue: their errors name them.
func (r *recovery) rehearse(ctx context.Context, c cli.Remote, repository string, list []*candidate) error {
	ctx, stop := r.app.Signals(ctx)
	defer stop()
	p := &printer{meters: r.app.Meters()}
	out := rehearsal{Repository: repository, Began: r.app.Now(), Parallel: min(r.parallel, uint(len(list)))}
	done := map[*candidate]*rehearsedVolume{}
	for _, cand := range list {
		done[cand] = &rehearsedVolume{}
	}
	each(list, r.parallel, func(cand *candidate) {
		if ctx.Err() != nil {
			done[cand].Problem = dataset.ProblemOf(dataset.Errorf(dataset.ErrCancelled, "interrupted"))
			return
		}
		err := r.rehearseOne(ctx, c, p, cand, done[cand])
		if done[cand].Problem = dataset.ProblemOf(err); err != nil {
			p.print(func() { r.app.PrintError(ctx, err) })
		}
	})
	p.close()
	out.Seconds = r.app.Now().Sub(out.Began).Seconds()
	for _, cand := range list {
		v := done[cand]
		v.Volume, v.Backup, v.Taken = cand.Backup.Volume, cand.Backup.ID, cand.Backup.Taken
		v.Age = out.Began.Sub(v.Taken).Seconds()
		if v.Verified = v.Problem == nil; v.Verified {
			out.Bytes += v.Bytes
			out.Verified++
		}
		out.Volumes = append(out.Volumes, *v)
	}
	if err := r.printRehearsal(out); err != nil {
		return err
	}
	failed := len(out.Volumes) - out.Verified
	switch {
	case failed > 0 && ctx.Err() != nil:
		return dataset.Errorf(dataset.ErrCancelled, "interrupted: %d of %d backups are not verified", failed, len(list))
	case failed > 0:
		return fmt.Errorf("%d of %d volumes could not be recovered now", failed, len(list))
	}
	return nil
}

// rehearseOne restores the backup of a candidate into a temporary volume, compares the files, and sets what it has
// measured. It fails if a recovery of the volume on an empty machine would fail.
func (r *recovery) rehearseOne(ctx context.Context, c cli.Remote, p *printer, cand *candidate,
	v *rehearsedVolume) error {
	b := cand.Backup
	if err := r.checkRecoverable(cand); err != nil {
		return err
	}
	b, err := c.VolumeBackup(ctx, b.Repository, b.ID)
	if err != nil {
		return fmt.Errorf("volume %s: %w", cand.Backup.Volume, err)
	}
	if err := r.checkEncryption(p, b); err != nil {
		return err
	}
	opts := r.options(p, b)
	for key := range opts {
		if strings.HasPrefix(key, labelOption) {
			delete(opts, key) // a temporary volume has no labels
		}
	}
	o := *r.out
	o.Detach = true
	out, err := r.app.Submit(ctx, c, &o, api.Request{
		Kind: dataset.OpVerify, Volume: b.Volume, Options: opts, Repository: b.Repository, Backup: b.ID,
	})
	if err != nil || out.Operation == nil {
		return err
	}
	m := p.meters.Meter("rehearse " + b.Volume)
	defer m.Close()
	op, err := r.app.Wait(ctx, c, *out.Operation, m)
	if !op.Ended.IsZero() {
		v.Seconds = op.Ended.Sub(op.Created).Seconds()
	}
	if err == nil {
		v.Bytes = op.Progress.Done
	}
	return err
}

// checkRecoverable fails if recoverOne would create no volume from the backup of a candidate on an empty machine.
func (r *recovery) checkRecoverable(cand *candidate) error {
	profile := cmp.Or(r.profile, cand.Backup.Profile)
	known := func(p api.ListedProfile) bool { return p.Name == profile }
	if profile != "" && r.profile == "" && !slices.ContainsFunc(r.profiles, known) {
		return noProfileError(cand.Backup)
	}
	return r.checkUnambiguous(cand)
}

// printRehearsal prints the report of a rehearsal.
func (r *recovery) printRehearsal(out rehearsal) error {
	if r.out.JSON() {
		return cli.JSON(r.app.Out, out)
	}
	t := cli.NewTable("VOLUME", "BACKUP", "RECOVERY POINT", "DATA", "TIME", "RESULT")
	var oldest time.Time
	for _, v := range out.Volumes {
		data, took, result := "-", "-", "failed"
		if v.Seconds > 0 {
			took = inSeconds(v.Seconds)
		}
		if v.Verified {
			data, result = dataset.Size(v.Bytes).Human(), "verified"
			if oldest.IsZero() || v.Taken.Before(oldest) {
				oldest = v.Taken
			}
		}
		t.Row(cli.ShortName(v.Volume), short(v.Backup), cli.Ago(out.Began, v.Taken), data, took, result)
	}
	if err := t.Write(r.app.Out); err != nil || out.Verified == 0 {
		return err
	}
	return r.app.PrintLine("%d of %d volumes were restored and compared in %s: %s, oldest recovery point %s",
		out.Verified, len(out.Volumes), inSeconds(out.Seconds), dataset.Size(out.Bytes).Human(),
		cli.Ago(out.Began, oldest))
}

// inSeconds formats a number of seconds: a tenth of a second matters only in short times.
func inSeconds(s float64) string {
	d := time.Duration(s * float64(time.Second))
	if d < 10*time.Second {
		return d.Round(100 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}
