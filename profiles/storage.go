package profiles

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/adhocore/gronx"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
)

// mountOptions returns the mount options of a filesystem that an operator may choose: those that change speed, access
// times, or which programs on the volume can be executed. It does not return options that can lose data (nobarrier,
// data=writeback, a commit of more than 30 s), options that Drover sets itself (ro, nouuid, norecovery), or options
// that need other settings too (quotas, an external log). See xfs(5), ext4(5) and mount(8).
func mountOptions(fstype string) []string {
	options := []string{"noatime", "relatime", "nodiratime", "lazytime", "nosuid", "nodev", "noexec", "discard",
		"nodiscard"}
	switch fstype {
	case "xfs":
		options = append(options, "largeio", "swalloc", "logbsize=32k", "logbsize=64k", "logbsize=128k",
			"logbsize=256k")
	case "ext4":
		options = append(options, "commit=1", "commit=5", "commit=15", "commit=30", "delalloc", "nodelalloc")
	}
	return options
}

// subject returns the name of the setting that a mount option changes. If two options change the same setting, the
// kernel uses the last one, which may not be what the operator meant.
func subject(option string) string {
	switch option {
	case "relatime":
		return "noatime"
	case "nodiscard", "nodelalloc":
		return strings.TrimPrefix(option, "no")
	}
	key, _, _ := strings.Cut(option, "=")
	return key
}

func filesystem(n strictyaml.Node, fs *dataset.Filesystem) error {
	keys, err := n.Keys([]string{"type", "mount"}, nil)
	if err != nil {
		return err
	}
	if fs.Type, err = keys["type"].String(); err != nil {
		return err
	}
	if _, ok := keys["type"]; ok && fs.Type != "xfs" && fs.Type != "ext4" {
		return keys["type"].Errorf("unknown filesystem %q (available: ext4, xfs)", dataset.Clip(fs.Type))
	}
	items, err := keys["mount"].Items()
	if err != nil {
		return err
	}
	var bad strictyaml.Mistakes
	optionBySubject := map[string]string{}
	for _, item := range items {
		o, err := mountOption(item, fs.Type)
		if !bad.Add(err) {
			continue
		}
		if other, ok := optionBySubject[subject(o)]; ok {
			bad.Add(item.Errorf("mount options %s and %s exclude each other", other, o))
			continue
		}
		optionBySubject[subject(o)] = o
		fs.Mount = append(fs.Mount, o)
	}
	return bad.Err()
}

func mountOption(n strictyaml.Node, fstype string) (string, error) {
	o, err := n.String()
	if err != nil {
		return "", err
	}
	allowed := mountOptions(fstype)
	if slices.Contains(allowed, o) {
		return o, nil
	}
	hint := ""
	if fstype == "" {
		hint = "; more with a type of ext4 or xfs"
	}
	return "",
		n.Errorf("mount option %q is not supported (available: %s%s)", dataset.Clip(o), dataset.FormatChoices(allowed),
			hint)
}

// encryption reads {key_file: /etc/drover/keys/gold} or {exec: [program, …], timeout: 10s}.
func encryption(n strictyaml.Node, k *dataset.KeySource) error {
	keys, err := n.Keys([]string{"key_file", "exec", "timeout"}, nil)
	if err != nil {
		return err
	}
	var bad strictyaml.Mistakes
	file, hasFile := keys["key_file"]
	program, hasProgram := keys["exec"]
	if hasFile == hasProgram {
		bad.Add(n.Errorf("expected the source of the key: {key_file: /etc/drover/keys/gold}, or a program that " +
			"prints it: {exec: [/usr/local/sbin/drover-key], timeout: 10s}"))
	}
	if hasFile {
		bad.Add(absolute(file, &k.KeyFile))
	}
	if hasProgram {
		k.Timeout = dataset.DefaultKeyTimeout
		bad.Add(keyProgram(program, k))
	}
	if v, ok := keys["timeout"]; ok {
		if !hasProgram {
			bad.Add(v.KeyErrorf("it applies only to exec"))
		} else if bad.Add(duration(v, &k.Timeout)) && (k.Timeout == 0 || k.Timeout > dataset.MaxKeyTimeout) {
			bad.Add(v.Errorf("expected more than 0, and %s at most", dataset.MaxKeyTimeout))
		}
	}
	return bad.Err()
}

func absolute(n strictyaml.Node, into *string) error {
	s, err := n.String()
	if err != nil {
		return err
	}
	if !filepath.IsAbs(s) || filepath.Clean(s) != s {
		return n.Errorf("bad path %q: expected an absolute one without . and .., such as "+
			"/etc/drover/keys/gold", dataset.Clip(s))
	}
	*into = s
	return nil
}

func keyProgram(n strictyaml.Node, k *dataset.KeySource) error {
	items, err := n.Items()
	if err != nil {
		return err
	}
	var bad strictyaml.Mistakes
	for _, item := range items {
		s, err := item.String()
		bad.Add(err)
		k.Exec = append(k.Exec, s)
	}
	if len(k.Exec) == 0 || !filepath.IsAbs(k.Exec[0]) {
		bad.Add(n.Errorf("expected a program by its absolute path, such as [/usr/local/sbin/drover-key]"))
	}
	return bad.Err()
}

// The minimum limits. With lower ones, a volume is so slow that its users think that it is broken.
const (
	minIOPS = 10
	minBPS  = 128 * dataset.KiB
)

// maxIOPS is the largest limit, rounded. The kernel counts in unsigned numbers of 32 bits, and the largest of these
// means "no limit".
const maxIOPS = 4_000_000_000

// qos reads {read_iops: 5000, write_bps: 100MiB, strict: true}.
func qos(n strictyaml.Node, q *dataset.QoS) error {
	keys, err := n.Keys([]string{"read_iops", "write_iops", "read_bps", "write_bps", "strict"}, nil)
	if err != nil {
		return err
	}
	var bad strictyaml.Mistakes
	bad.Add(iops(keys["read_iops"], &q.ReadIOPS))
	bad.Add(iops(keys["write_iops"], &q.WriteIOPS))
	bad.Add(bps(keys["read_bps"], &q.ReadBPS))
	bad.Add(bps(keys["write_bps"], &q.WriteBPS))
	if v, ok := keys["strict"]; ok {
		q.Strict, err = v.Bool()
		bad.Add(err)
	}
	if err := bad.Err(); err != nil {
		return err
	}
	if !q.Limited() {
		return n.Errorf("expected a limit, such as {write_iops: 2000, write_bps: 100MiB}")
	}
	return nil
}

func iops(n strictyaml.Node, into *int64) (err error) {
	if n.Absent() {
		return nil
	}
	if *into, err = n.Int(maxIOPS); err == nil && *into < minIOPS {
		return n.Errorf("%d operations per second are too few: expected %d or more (omit it for no limit)", *into,
			minIOPS)
	}
	return err
}

func bps(n strictyaml.Node, into *dataset.Size) error {
	if n.Absent() {
		return nil
	}
	err := size(n, into)
	if err == nil && *into < minBPS {
		return n.Errorf("%s per second is too low: expected %s or more (omit it for no limit)", *into, minBPS)
	}
	return err
}

// maxKeep is the largest number that each key of keep may have. It is enough for hourly snapshots of more than a year.
const maxKeep = 10_000

func snapshots(n strictyaml.Node, s *dataset.Snapshots) error {
	keys, err := n.Keys([]string{"required", "schedule", "keep"}, nil)
	if err != nil {
		return err
	}
	var bad strictyaml.Mistakes
	s.Required, err = keys["required"].Bool()
	bad.Add(err)
	if v, ok := keys["schedule"]; ok {
		bad.Add(schedule(v, &s.Schedule))
		if r, ok := keys["required"]; ok && err == nil && !s.Required {
			bad.Add(r.Errorf("a schedule needs snapshots: omit it, or use true"))
		}
		s.Required = true
	}
	if v, ok := keys["keep"]; ok {
		bad.Add(keep(v, &s.Keep))
		if _, ok := keys["schedule"]; !ok {
			bad.Add(v.KeyErrorf("it applies to scheduled snapshots: expected a schedule as well, such as " +
				"schedule: \"@hourly\""))
		}
	}
	return bad.Err()
}

func keep(n strictyaml.Node, k *dataset.Keep) error {
	into := map[string]*int{
		"last":    &k.Last,
		"hourly":  &k.Hourly,
		"daily":   &k.Daily,
		"weekly":  &k.Weekly,
		"monthly": &k.Monthly,
	}
	keys, err := n.Keys([]string{"last", "hourly", "daily", "weekly", "monthly"}, nil)
	if err != nil {
		return err
	}
	var bad strictyaml.Mistakes
	for key, v := range keys {
		i, err := v.Int(maxKeep)
		bad.Add(err)
		*into[key] = int(i)
	}
	if len(bad) == 0 && *k == (dataset.Keep{}) {
		bad.Add(n.Errorf("it keeps nothing: expected a number for last, hourly, daily, weekly or monthly, such as " +
			"{hourly: 24, daily: 7}"))
	}
	return bad.Err()
}

// schedule reads a cron expression. It refuses forms that only the library accepts: a field for seconds, a field for
// the year, and days that never come.
func schedule(n strictyaml.Node, into *string) error {
	s, err := n.String()
	if err != nil {
		return err
	}
	*into = s
	if err := checkCron(s); err != nil {
		return n.Errorf("bad schedule %q: %v", dataset.Clip(s), err)
	}
	return nil
}

// cronFields are the fields of a cron expression in their order, with what each of them accepts.
var cronFields = []struct{ name, accepts string }{
	{"minute", "0 to 59"},
	{"hour", "0 to 23"},
	{"day", "1 to 31"},
	{"month", "1 to 12 or JAN to DEC"},
	{"weekday", "0 to 7 or SUN to SAT"},
}

// checkCron fails if a cron expression is wrong. The error names the field.
func checkCron(s string) error {
	if len(s) > maxCron {
		return fmt.Errorf("%d characters are too long (%d at most)", len(s), maxCron)
	}
	if err := checkCronFields(s); err != nil {
		return err
	}
	// The next year is a leap year, so that a schedule for February 29 has a next time.
	from := time.Date(2027, 12, 31, 0, 0, 0, 0, time.UTC)
	if next, err := gronx.NextTickAfter(s, from, false); err != nil || !next.After(from) ||
		next.Sub(from) > 5*366*24*time.Hour {
		if fields := strings.Split(s, " "); len(fields) == len(cronFields) {
			return fmt.Errorf("the time never occurs: month %q has no day %q", fields[3], fields[2])
		}
		return errors.New("the time never occurs")
	}
	return nil
}

// maxCron bounds the length of a cron expression.
const maxCron = 200

func checkCronFields(s string) error {
	tags := []string{"@hourly", "@daily", "@weekly", "@monthly", "@yearly"}
	if slices.Contains(tags, s) {
		return nil
	}
	expected := errors.New(`expected a cron expression of minute, hour, day, month and weekday, such as ` +
		`"*/15 * * * *", or ` + strings.Join(tags, ", "))
	fields := strings.Split(s, " ")
	if len(fields) == 1 || slices.Contains(fields, "") {
		return expected
	}
	if len(fields) != len(cronFields) {
		return fmt.Errorf("it has %d fields, not %d: %w", len(fields), len(cronFields), expected)
	}
	for i, f := range cronFields {
		only := []string{"*", "*", "*", "*", "*"} // the other fields accept any time
		only[i] = fields[i]
		if !gronx.IsValid(strings.Join(only, " ")) {
			return fmt.Errorf("the %s %q is wrong: expected %s, a list such as 1,3, a range such as 1-5, or a step "+
				"such as */2", f.name, fields[i], f.accepts)
		}
	}
	if !gronx.IsValid(s) {
		return expected
	}
	return nil
}

// maxKeptBackups is how many backups of a volume the rules of keep may retain in total. Control records the ID of each
// of them in one record.
const maxKeptBackups = 500

// backup reads {to: offsite, schedule: "15 2 * * *", keep: {daily: 7}}. Whether the repository is recorded is not
// checked: it may be added later.
func backup(n strictyaml.Node, b *dataset.Backups) error {
	keys, err := n.Keys([]string{"to", "schedule", "keep", "verify"}, map[string]string{
		"mode": "a backup always has the files of the volume: omit mode",
	})
	if err != nil {
		return err
	}
	for _, need := range []string{"to", "schedule"} {
		if _, ok := keys[need]; !ok {
			return n.Errorf("expected a repository and a schedule, such as {to: offsite, schedule: \"15 2 * * *\"}")
		}
	}
	var bad strictyaml.Mistakes
	b.To, err = keys["to"].String()
	if bad.Add(err) {
		bad.Add(keys["to"].Wrap(dataset.CheckRepositoryName(b.To)))
	}
	bad.Add(schedule(keys["schedule"], &b.Schedule))
	if v, ok := keys["keep"]; ok {
		if bad.Add(keep(v, &b.Keep)) {
			k := b.Keep
			if most := k.Last + k.Hourly + k.Daily + k.Weekly + k.Monthly; most > maxKeptBackups {
				bad.Add(v.Errorf("its numbers add up to %d backups of a volume (%d at most)", most, maxKeptBackups))
			}
		}
	}
	if v, ok := keys["verify"]; ok {
		bad.Add(verify(v, &b.Verify))
	}
	return bad.Err()
}

// minVerifyEvery and maxVerifyEvery are the shortest and the longest time between two verifications.
const (
	minVerifyEvery = dataset.Duration(time.Hour)
	maxVerifyEvery = dataset.Duration(366 * 24 * time.Hour)
)

// verify reads {every: 7d, restore: true, check: /etc/drover/checks/mariadb}. Whether a node has the program is not
// checked: only the node that verifies needs it.
func verify(n strictyaml.Node, v *dataset.Verification) error {
	keys, err := n.Keys([]string{"every", "restore", "check"}, nil)
	if err != nil {
		return err
	}
	for _, need := range []string{"every", "restore"} {
		if _, ok := keys[need]; !ok {
			return n.Errorf("expected how often the newest backup is restored for a test: {every: 7d, restore: true}")
		}
	}
	var bad strictyaml.Mistakes
	if bad.Add(duration(keys["every"], &v.Every)) && (v.Every < minVerifyEvery || v.Every > maxVerifyEvery) {
		bad.Add(keys["every"].Errorf("expected 1h or more, and 366d at most"))
	}
	restore, err := keys["restore"].Bool()
	if bad.Add(err) && !restore {
		bad.Add(keys["restore"].Errorf("expected true: omit verify if backups are not verified"))
	}
	v.Restore = restore
	if at, ok := keys["check"]; ok {
		v.Check, err = at.String()
		if bad.Add(err) {
			bad.Add(at.Wrap(dataset.CheckCheckProgram(v.Check)))
		}
	}
	return bad.Err()
}

// failover reads "manual" or "auto".
func failover(n strictyaml.Node, f *dataset.Failover) error {
	s, err := n.String()
	if err != nil {
		return err
	}
	if f.Auto = s == "auto"; !f.Auto && s != "manual" {
		return n.Errorf("unknown choice %q (available: auto, manual)", dataset.Clip(s))
	}
	return nil
}

// fence reads "guard", "watchdog", or {exec: [program, …], timeout: 20s}.
func fence(n strictyaml.Node, f *dataset.Fence) error {
	if n.IsMap() {
		return fenceCommand(n, f)
	}
	s, err := n.String()
	if err != nil {
		return err
	}
	switch kind := dataset.FenceKind(s); kind {
	case dataset.FenceGuard, dataset.FenceWatchdog:
		f.Kind = kind
		return nil
	case dataset.FenceExec:
	}
	return n.Errorf("unknown choice %q (available: {exec: [/usr/local/sbin/power-off], timeout: 20s}, guard, watchdog)",
		dataset.Clip(s))
}

func fenceCommand(n strictyaml.Node, f *dataset.Fence) error {
	keys, err := n.Keys([]string{"exec", "timeout"}, nil)
	if err != nil {
		return err
	}
	f.Kind, f.Timeout = dataset.FenceExec, dataset.DefaultFenceTimeout
	var bad strictyaml.Mistakes
	if v, ok := keys["timeout"]; ok {
		if bad.Add(duration(v, &f.Timeout)) && (f.Timeout == 0 || f.Timeout > dataset.MaxFenceTimeout) {
			bad.Add(v.Errorf("expected more than 0, and %s at most", dataset.MaxFenceTimeout))
		}
	}
	items, err := keys["exec"].Items()
	bad.Add(err)
	for _, item := range items {
		s, err := item.String()
		bad.Add(err)
		f.Exec = append(f.Exec, s)
	}
	if err == nil && (len(f.Exec) == 0 || !filepath.IsAbs(f.Exec[0])) {
		bad.Add(n.Errorf("expected a program by its absolute path, such as {exec: [/usr/local/sbin/power-off]}"))
	}
	return bad.Err()
}

func maxLoss(n strictyaml.Node, f *dataset.Failover) error {
	if err := duration(n, &f.MaxLoss); err != nil {
		return err
	}
	if f.MaxLoss == 0 {
		return n.Errorf("a copy always has some age: expected at least the time between two refreshes")
	}
	return nil
}

// shareBackend is the backend of pools on a share that all hosts can reach. After a failover, a volume continues from
// the same data, so it needs no replicas.
const shareBackend = "nfs"

// checkFailover checks that the keys for failover are consistent, and sets their defaults.
func checkFailover(keys map[string]strictyaml.Node, p *dataset.Profile) error {
	var bad strictyaml.Mistakes
	auto := p.Failover.Auto
	if !auto {
		for _, key := range []string{"fence", "max_loss"} {
			if v, ok := keys[key]; ok {
				bad.Add(v.KeyErrorf("it applies only to failover: auto"))
			}
		}
		return bad.Err()
	}
	if p.Access == dataset.AccessMany {
		return nil // checkAccess refuses it with a better message
	}
	if p.Backend == shareBackend {
		if p.Failover.Fence.Kind != dataset.FenceExec {
			bad.Add(keys["failover"].Errorf("auto on a share needs a fence that blocks the lost home's access to " +
				"the share, which a guard or watchdog there does not do: expected fence: {exec: " +
				"[/usr/local/sbin/shut-out], timeout: 20s}"))
		}
		if v, ok := keys["max_loss"]; ok {
			bad.Add(v.KeyErrorf("nothing is lost on a share: omit it"))
		}
		return bad.Err()
	}
	for _, need := range []string{"replicas", "fence"} {
		if _, ok := keys[need]; !ok {
			bad.Add(keys["failover"].Errorf("auto opens a copy on another node once the lost home certainly " +
				"writes no more: expected replicas, such as {count: 1, every: 30s}, and a fence (guard, " +
				"watchdog, or a command)"))
			break
		}
	}
	every := p.Replicas.Every
	if v, ok := keys["max_loss"]; !ok {
		p.Failover.MaxLoss = 2 * every
	} else if p.Failover.MaxLoss > 0 && p.Failover.MaxLoss < every {
		bad.Add(v.Errorf("too low: copies are refreshed only every %s", time.Duration(every)))
	}
	return bad.Err()
}
