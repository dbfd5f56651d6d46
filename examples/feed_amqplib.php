<?php // Submit a job as a grid site, in PHP: php feed_amqplib.php JOB-ID EXECUTABLE [ARGUMENT ...] < LOGIN-FILE
require_once "PhpAmqpLib/autoload.php";

use PhpAmqpLib\Connection\AMQPStreamConnection;
use PhpAmqpLib\Message\AMQPMessage;

$site = json_decode(stream_get_contents(STDIN), true);
[, $job_id, $executable] = $argv;
$job = ["id" => $job_id, "executable" => $executable, "arguments" => array_slice($argv, 3)];
$id = bin2hex(random_bytes(16));
$body = msgpack_pack(["op" => "job.submit", "id" => $id, "job" => $job]);

$where = $site["endpoints"][0];
$broker = new AMQPStreamConnection($where["host"], $where["port"], $site["user"], $site["password"], $site["vhost"]);
$channel = $broker->channel();
$channel->confirm_select();
$channel->set_nack_handler(fn () => exit("the broker refused it\n"));
$properties = ["user_id" => $site["user"], "message_id" => $id, "delivery_mode" => 2];
$channel->basic_publish(new AMQPMessage($body, $properties), "vc.up", $site["user"] . ".submit");
$channel->wait_for_pending_acks(30);

$queue = preg_replace("/-/", ".", $site["user"], 1);
for ($deadline = microtime(true) + 30; microtime(true) < $deadline; usleep(50000)) {
    while ($letter = $channel->basic_get($queue)) { // it may hold verdicts on what was sent before
        $verdict = msgpack_unpack($letter->getBody());
        $letter->ack();
        if (($verdict["call"] ?? null) === $id) { // what has no call came of itself: job.ended
            $broker->close();
            $is_accepted = $verdict["accepted"] ?? false;
            fwrite($is_accepted ? STDOUT : STDERR, $is_accepted ? "accepted $job_id\n" : json_encode($verdict) . "\n");
            exit($is_accepted ? 0 : 1);
        }
    }
}
fwrite(STDERR, "no verdict in 30 s\n");
exit(1);
