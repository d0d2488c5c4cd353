// Package backup makes backups of volumes in the recorded repositories. Package agent makes its components.
//
// A backup is a snapshot of restic. It contains a tree with the folder DataName, which has the content of the volume at
// one moment, and the file RecordName, which describes the volume (Record). The tags say which volume it is (Tags). The
// repository has the only list of the backups.
package backup
