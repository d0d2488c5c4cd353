package profiles

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/adhocore/gronx"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
)

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
