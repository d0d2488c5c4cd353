package restic

import (
	"encoding/json"
	"regexp"
	"strings"
)

// Names of files in a volume can contain any text, such as "wrong password or no key found", and line breaks. restic
// 0.14 writes them in three forms:
//
//   - A backup reports a file as a line of JSON.
//   - A restore writes "ignoring error for NAME: REASON", and its last line is "Fatal: There were N errors".
//   - A check quotes the names, in indented lines about a tree.
//
// ownMessages leaves the names out.

// ownMessages returns the messages of restic without the names of files in a volume. args are the arguments of the run.
func ownMessages(text string, args []string) string {
	text = withoutJSON(text)
	target := targetOf(args)
	if target == "" {
		return withoutQuotedNames(text)
	}
	first := ignoredFile().FindStringIndex(text)
	counted := errorCount().FindStringIndex(text)
	if first == nil && counted == nil {
		return text
	}
	// The text before the first of these messages can be the rest of one whose beginning was cut off.
	var out strings.Builder
	files, end := "", ""
	if counted != nil {
		files, end = text[:counted[0]], text[counted[0]:]
	} else {
		out.WriteString(text[:first[0]])
		files = text
	}
	if first != nil {
		for _, message := range ignoredFile().Split(files[first[0]:], -1)[1:] {
			out.WriteString("ignoring error: " + restoreReason(message, target) + "\n")
		}
	}
	return out.String() + end
}

// ignoredFile matches the beginning of the message of a restore about a file.
func ignoredFile() *regexp.Regexp { return regexp.MustCompile(`(?m)^ignoring error for `) }

// errorCount matches the last message of a restore that could not restore some files.
func errorCount() *regexp.Regexp {
	return regexp.MustCompile(`(?m)^Fatal: There were [0-9]+ errors\n*\z`)
}

// restoreReason returns the reason in a message of a restore about a file, which begins with the name of the file. The
// last reason that is found counts, because the name comes first. An error of the file below target has its name again,
// and so only the last words of it count.
func restoreReason(message, target string) string {
	message = strings.TrimSpace(message)
	reason := regexp.MustCompile(
		`(?s)^.*: ((?:StreamPack: |ReadFull\(<|Load\(<|(?:id|blob) [0-9a-f]{8,64} not found|ciphertext ).*)$`)
	if found := reason.FindStringSubmatch(message); found != nil && !strings.Contains(message, target) {
		return found[1]
	}
	return message[strings.LastIndex(message, ": ")+1:]
}

// targetOf returns the folder to which a run of restic restores files. It returns "" if the run restores none.
func targetOf(args []string) string {
	for _, arg := range args {
		if target, ok := strings.CutPrefix(arg, "--target="); ok {
			return target
		}
	}
	return ""
}

// withoutJSON leaves out the lines of JSON about files. restic 0.17 and later report why they end as JSON:
// withoutJSON replaces this line by its text.
func withoutJSON(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		var m struct {
			Type    string `json:"message_type"`
			Message string `json:"message"`
		}
		if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &m) != nil {
			out.WriteString(line)
		} else if m.Type == "exit_error" {
			out.WriteString(m.Message + "\n")
		}
	}
	return out.String()
}

// withoutQuotedNames leaves out the quoted names in the indented lines of a check.
func withoutQuotedNames(text string) string {
	names := regexp.MustCompile(`"(?:[^"\\]|\\.)*"`)
	var out strings.Builder
	for line := range strings.Lines(text) {
		if strings.HasPrefix(line, "  ") {
			line = names.ReplaceAllString(line, `""`)
		}
		out.WriteString(line)
	}
	return out.String()
}
